"""Images a second of training, pruning, clustering and 8-bit training in the graph against Keras and tfmot under `fit`.

Same model, Fashion-MNIST's 50,000 training images (the two largest networks: the first 10,000), batch 128, Adam.
Theirs is what one writes by hand: scaled float32 arrays in memory, `compile` and `fit`. Ours gives the same bytes
every time; a plain `fit` does not promise that, so the first comparison is made twice: with TensorFlow's op
determinism on for `fit` too, and without. Each side is a process of its own, which starts, traces and trains one
epoch before the clock starts; then the two train an epoch each in turn.

    python experiments/benchmarks/training.py --runs 7
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
from common import Result, fashion, parser, report

BATCH = 128
CASES = {  # name: (model, method beside training, whether theirs repeats too, target, training images or None for all)
    "train lenet_300_100": ("lenet_300_100", "", True, 2.2, None),
    "train lenet_300_100, plain fit": ("lenet_300_100", "", False, 2.2, None),
    "prune lenet_300_100": ("lenet_300_100", "prune", False, 1.8, None),
    "prune lenet_300_100, 2 of 4": ("lenet_300_100", "2 of 4", False, 1.0, None),
    "cluster lenet_300_100": ("lenet_300_100", "cluster", False, 1.0, None),
    "cluster small_cnn": ("small_cnn", "cluster", False, 1.0, None),
    "qat lenet_300_100": ("lenet_300_100", "qat", False, 1.0, None),
    "qat small_cnn": ("small_cnn", "qat", False, 1.0, None),
    "train lenet5": ("lenet5", "", False, 1.0, None),
    "train small_cnn": ("small_cnn", "", False, 1.0, None),
    "train resnet8, 10,000 images": ("resnet8", "", False, 1.0, 10_000),
    "train mobilenet_v1 (alpha 0.25), 10,000 images": ("mobilenet_v1", "", False, 1.0, 10_000),
}
SPARSITY, FREQUENCY, VALUES = 0.8, 100, 16


def main() -> None:
    """Runs the comparison, or one side of it as its child process."""
    options = parser(__doc__, runs=5)
    options.add_argument("--only", choices=CASES, action="append", help="this case (default: all)")
    options.add_argument("--threads", type=int, default=os.cpu_count(), help="ours; theirs takes all (default: all)")
    options.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    chosen = options.parse_args()
    runs = 1 if chosen.smoke else chosen.runs
    if chosen.side:
        _child(chosen.side, chosen.only[0], runs + 1, chosen.smoke, chosen.threads)
        return
    report([_compare(case, runs, chosen.smoke, chosen.threads) for case in chosen.only or CASES], chosen.json)


def _compare(case: str, runs: int, smoke: bool, threads: int) -> Result:
    """Lets both sides train in turn; the first epoch of each is not counted."""
    words = [sys.executable, __file__, "--only", case, "--runs", str(runs), "--threads", str(threads)]
    words += ["--smoke"] if smoke else []
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    sides = {
        side: subprocess.Popen([*words, "--side", side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for side in rates
    }
    for _ in range(runs + 1):
        for side, process in sides.items():
            assert process.stdin and process.stdout
            process.stdin.write("\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                sys.exit(f"{case}: the side '{side}' ended early.")
            rates[side].append(float(answer))
    for process in sides.values():
        process.communicate()
    return Result(case, rates["ours"][1:], rates["theirs"][1:], "images/s", CASES[case][3], at_least=True)


class _Turns:
    """Waits for the word to go on, and answers with the images a second since."""

    def __init__(self, images: int) -> None:
        self._images, self._start = images, 0.0

    def wait(self) -> None:
        if not sys.stdin.readline():
            sys.exit(1)
        self._start = time.perf_counter()

    def answer(self) -> None:
        print(self._images / (time.perf_counter() - self._start), flush=True)


def _child(side: str, case: str, epochs: int, smoke: bool, threads: int) -> None:
    model, method, repeats, _, images = CASES[case]
    images = 500 if smoke else images
    if side == "ours":
        _ours(model, method, epochs, images, threads)
    else:
        _theirs(model, method, repeats, epochs, images)


def build(name: str, shape: tuple[int, ...], classes: int) -> Any:
    """One of lightexp's models, untrained, for either side."""
    from lightexp.models.lenet5 import LeNet5
    from lightexp.models.lenet_300_100 import LeNet300100
    from lightexp.models.mobilenet_v1 import MobileNetV1
    from lightexp.models.resnet8 import ResNet8
    from lightexp.models.small_cnn import SmallCnn

    models = [LeNet300100, LeNet5, MobileNetV1, ResNet8, SmallCnn]
    return {cls.__module__.rpartition(".")[2]: cls for cls in models}[name]().build(shape, classes)


def _ours(name: str, method: str, epochs: int, images: int | None, threads: int) -> None:
    data = fashion(images)
    from lightexp.backend import session

    session.start_tensorflow(threads)
    session.reset_graph(0)
    from lightexp.backend import qat
    from lightexp.backend.pruning import PruningMasks
    from lightexp.backend.tied_weights import TiedWeights
    from lightexp.backend.training import Trainer
    from lightexp.core.clustering import cluster_weights
    from lightexp.core.data import Data, Split
    from lightexp.core.schedule import Schedule
    from lightexp.core.training import Training
    from lightexp.objectives.cross_entropy import CrossEntropy
    from lightexp.stages.qat import ACTIVATIONS

    # Neither side validates: the one image is there because ours always does.
    one = Split(data.val.x[:1], data.val.y[:1])
    data = Data(data.name, data.train, one, one, data.classes, data.scale, data.offset)
    model = build(name, data.shape, data.classes)
    settings = Training(objective=CrossEntropy(), epochs=epochs, batch_size=BATCH)
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    masks: PruningMasks | TiedWeights | None = None
    if method in ("prune", "2 of 4"):
        steps = epochs * -(-len(data.train) // BATCH)
        final = 0.5 if method == "2 of 4" else SPARSITY
        schedule = Schedule(0.0, final, 0, steps // 2, min(FREQUENCY, steps // 2))
        groups = [([index], schedule) for index in range(len(kernels))]
        masks = PruningMasks(kernels, groups, steps, None, 4 if method == "2 of 4" else None)
    elif method == "cluster":
        for kernel in kernels:
            kernel.assign(cluster_weights(kernel.numpy(), VALUES, "kmeans++", np.random.default_rng(0)))
        masks = TiedWeights(kernels, zeros=True, values=True)
    elif method == "qat":
        model, _ = qat.simulate_int8(model, ACTIVATIONS)
        qat.find_ranges(model, data.inputs(data.train.x[:200]))
    turns = _Turns(len(data.train))

    class Progress:
        def step(self, done: float, total: float, **figures: float) -> None:
            if done == int(done):
                turns.answer()
                if done < total:
                    turns.wait()

        def say(self, words: str) -> None:
            pass

    trainer = Trainer(model, settings, data, 0, {}, masks)
    turns.wait()
    trainer.run(Progress())


def _theirs(name: str, method: str, repeats: bool, epochs: int, images: int | None) -> None:
    data = fashion(images)
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras

    if repeats:
        tf_keras.utils.set_random_seed(0)
        tf.config.experimental.enable_op_determinism()
    x, y = data.inputs(data.train.x), data.train.y
    model = build(name, data.shape, data.classes)
    turns = _Turns(len(x))

    class InTurn(tf_keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            turns.wait()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            turns.answer()

    callbacks = []
    if method == "cluster":
        start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
        model = tfmot.clustering.keras.cluster_weights(model, VALUES, start)
    elif method == "qat":
        model = tfmot.quantization.keras.quantize_model(model)
    elif method:
        steps = epochs * -(-len(x) // BATCH)
        schedule = tfmot.sparsity.keras.PolynomialDecay(
            0.0, SPARSITY, 0, steps // 2, frequency=min(FREQUENCY, steps // 2)
        )
        pattern = {"sparsity_m_by_n": (2, 4)} if method == "2 of 4" else {}
        model = tfmot.sparsity.keras.prune_low_magnitude(model, schedule, **pattern)
        callbacks.append(tfmot.sparsity.keras.UpdatePruningStep())
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.Adam(), loss, metrics=["accuracy"])
    # The clock is read last, after tfmot has masked the weights at the epoch's end, as ours does.
    model.fit(x, y, batch_size=BATCH, epochs=epochs, callbacks=[*callbacks, InTurn()], verbose=0)


if __name__ == "__main__":
    main()
