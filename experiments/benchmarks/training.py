"""Images per second: training, pruning, clustering and 8-bit training by lightexp, and by Keras and tfmot under `fit`.

Same model, Fashion-MNIST's 50,000 training images (the largest networks: the first 10,000), batch 128, Adam. The
script's side is what one writes by hand: scaled float32 arrays in memory, `compile` and `fit`. lightexp gives the same
bytes every time, which a plain `fit` does not promise, so LeNet-300-100 is also trained with TensorFlow's op
determinism on for `fit`; and with `steps_per_execution=50`, which lets `fit` run 50 steps per Python call. Each side is
a process that starts, traces and trains one epoch before the clock starts; then the two train an epoch each in turn.

    python experiments/benchmarks/training.py --runs 7
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import Result, load_fashion, make_parser, print_results

BATCH = 128
SPARSITY, FREQUENCY, VALUES = 0.8, 100, 16
RATE, RAMP_STEPS = 0.5, 100
WITHOUT_SCRIPT = ("rate", "from .keras", "from .tflite")


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        model: Name of the model's config.
        method: What is done beside training: `prune`, `2 of 4`, `cluster`, `qat`, `rate`, or nothing; or `from .keras`
            and `from .tflite`, for the model rebuilt from such a file, of Keras 3 or without Keras. No script trains as
            `rate` and these do: they are compared with lightexp's own training without a method.
        target: Lower limit of the ratio of images per second.
        deterministic: Whether the script turns TensorFlow's op determinism on.
        steps_per_execution: Keras' argument of `compile` on the script's side.
        images: How many training images; None for all.
    """

    model: str
    method: str = ""
    target: float = 1.0
    deterministic: bool = False
    steps_per_execution: int = 1
    images: int | None = None


CASES = {
    "train lenet_300_100, deterministic fit": Case("lenet_300_100", target=2.2, deterministic=True),
    "train lenet_300_100, plain fit": Case("lenet_300_100", target=2.2),
    "train lenet_300_100, fit with steps_per_execution=50": Case("lenet_300_100", steps_per_execution=50),
    "prune lenet_300_100": Case("lenet_300_100", "prune", target=1.8),
    "prune lenet_300_100, 2 of 4": Case("lenet_300_100", "2 of 4"),
    "cluster lenet_300_100": Case("lenet_300_100", "cluster"),
    "cluster small_cnn": Case("small_cnn", "cluster"),
    "qat lenet_300_100": Case("lenet_300_100", "qat"),
    "qat small_cnn": Case("small_cnn", "qat"),
    "rate lenet_300_100, lightexp's plain training": Case("lenet_300_100", "rate", target=0.7),
    "rate small_cnn, lightexp's plain training": Case("small_cnn", "rate", target=0.7),
    "train lenet5": Case("lenet5"),
    "train lenet5, fit with steps_per_execution=50": Case("lenet5", steps_per_execution=50),
    "train small_cnn": Case("small_cnn"),
    "train small_cnn, fit with steps_per_execution=50": Case("small_cnn", steps_per_execution=50),
    "train resnet8, 10,000 images": Case("resnet8", images=10_000),
    "train lenet5 from a Keras 3 file, lightexp's own, 10,000 images": Case("lenet5", "from .keras", images=10_000),
    "train lenet5 from a .tflite, lightexp's own, 10,000 images": Case("lenet5", "from .tflite", images=10_000),
    "train resnet8 from a Keras 3 file, lightexp's own, 10,000 images": Case("resnet8", "from .keras", images=10_000),
    "train mobilenet_v1 (alpha 0.25), 10,000 images": Case("mobilenet_v1", images=10_000),
}


def main() -> None:
    """Run the comparisons, or one side of one as a child process."""
    options = make_parser(__doc__, runs=5)
    options.add_argument("--only", choices=CASES, action="append", help="this case (default: all)")
    options.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="lightexp's; the script takes all cores (default: all)"
    )
    options.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    arguments = options.parse_args()
    runs = 1 if arguments.smoke else arguments.runs
    if arguments.side:
        _train_in_turn(arguments.side, CASES[arguments.only[0]], runs + 1, arguments.smoke, arguments.threads)
        return
    cases = arguments.only or CASES
    print_results([_compare(name, runs, arguments.smoke, arguments.threads) for name in cases], arguments.json)


def _compare(name: str, runs: int, smoke: bool, threads: int) -> Result:
    """Let both sides train an epoch in turn; the first epoch of each is not counted."""
    command = [sys.executable, __file__, "--only", name, "--runs", str(runs), "--threads", str(threads)]
    command += ["--smoke"] if smoke else []
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    sides = {
        side: subprocess.Popen(
            [*command, "--side", side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )
        for side in rates
    }
    for _ in range(runs + 1):
        for side, process in sides.items():
            assert process.stdin and process.stdout
            process.stdin.write("\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                sys.exit(f"{name}: the side '{side}' ended early.")
            rates[side].append(float(answer))
    for process in sides.values():
        process.communicate()
    return Result(name, rates["ours"][1:], rates["theirs"][1:], "images/s", CASES[name].target, at_least=True)


class _Turns:
    """Wait for this side's turn, and answer with the images per second of the turn."""

    def __init__(self, images: int) -> None:
        self._images, self._start = images, 0.0

    def wait(self) -> None:
        if not sys.stdin.readline():
            sys.exit(1)
        self._start = time.perf_counter()

    def answer(self) -> None:
        print(self._images / (time.perf_counter() - self._start), flush=True)


def _train_in_turn(side: str, case: Case, epochs: int, smoke: bool, threads: int) -> None:
    images = 500 if smoke else case.images
    if side == "ours":
        _train_with_lightexp(case, epochs, images, threads)
    elif case.method in WITHOUT_SCRIPT:
        _train_with_lightexp(replace(case, method=""), epochs, images, threads)
    else:
        _train_with_fit(case, epochs, images)


def build_model(name: str, shape: tuple[int, ...], classes: int) -> Any:
    """Build one of lightexp's models, untrained, for either side."""
    from lightexp.models.lenet5 import LeNet5
    from lightexp.models.lenet_300_100 import LeNet300100
    from lightexp.models.mobilenet_v1 import MobileNetV1
    from lightexp.models.resnet8 import ResNet8
    from lightexp.models.small_cnn import SmallCnn

    models = [LeNet300100, LeNet5, MobileNetV1, ResNet8, SmallCnn]
    return {cls.__module__.rpartition(".")[2]: cls for cls in models}[name]().build(shape, classes)


class _TurnProgress:
    """Answer at the end of each epoch, and wait for the next turn."""

    def __init__(self, turns: _Turns) -> None:
        self._turns = turns

    def step(self, done: float, total: float, **metrics: float) -> None:
        if done == int(done):
            self._turns.answer()
            if done < total:
                self._turns.wait()

    def say(self, message: str) -> None:
        pass


def _train_with_lightexp(case: Case, epochs: int, images: int | None, threads: int) -> None:
    data = load_fashion(images)
    from lightexp.backend import session

    session.start_tensorflow(threads)
    session.reset_graph(0)
    from lightexp.backend.training import Trainer
    from lightexp.core.data import Data, Split
    from lightexp.core.training import Training
    from lightexp.objectives.cross_entropy import CrossEntropy

    # Neither side validates: the single image is there because lightexp always validates.
    single = Split(data.val.x[:1], data.val.y[:1])
    data = Data(data.name, data.train, single, single, data.classes, data.scale, data.offset)
    model = build_model(case.model, data.shape, data.classes)
    settings = Training(objective=CrossEntropy(), epochs=epochs, batch_size=BATCH)
    if case.method.startswith("from "):
        model = _rebuild(model, case.method.removeprefix("from "), data)
    model, masks = _prepare(model, case.method, data, epochs)
    turns = _Turns(len(data.train))
    trainer = Trainer(model, settings, data, 0, constraint=masks)
    turns.wait()
    trainer.run(_TurnProgress(turns))


def _rebuild(model: Any, suffix: str, data: Any) -> Any:
    """Write a model to a file, and return what lightexp rebuilds from it."""
    from lightexp.backend import keras_export, keras_files
    from lightexp.models.from_file import FromFile
    from lightexp.models.trainable_tflite import TrainableTFLite

    with TemporaryDirectory() as name:
        folder = Path(name)
        keras_files.save_model(model, folder)
        if suffix == ".tflite":
            return TrainableTFLite(str(folder / "model.tflite")).load(data.shape, data.classes)
        keras_export.write_keras_3(folder, folder / "net.keras")
        return FromFile(str(folder / "net.keras")).load(data.shape, data.classes)


def _prepare(model: Any, method: str, data: Any, epochs: int) -> tuple[Any, Any]:
    """Return the model and the masks with which lightexp trains it by a method."""
    from lightexp.backend import qat
    from lightexp.backend.grid_weights import GridWeights, list_grid_tensors
    from lightexp.backend.pruning import PruningMasks
    from lightexp.backend.tied_weights import TiedWeights
    from lightexp.core.clustering import cluster_weights
    from lightexp.core.schedule import Schedule
    from lightexp.stages.qat import ACTIVATIONS

    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    if method in ("prune", "2 of 4"):
        steps = epochs * -(-len(data.train) // BATCH)
        final = 0.5 if method == "2 of 4" else SPARSITY
        schedule = Schedule(0.0, final, 0, steps // 2, min(FREQUENCY, steps // 2))
        groups = [([index], schedule) for index in range(len(kernels))]
        return model, PruningMasks(kernels, groups, steps, None, 4 if method == "2 of 4" else None)
    if method == "cluster":
        for kernel in kernels:
            kernel.assign(cluster_weights(kernel.numpy(), VALUES, "kmeans++", np.random.default_rng(0)))
        return model, TiedWeights(kernels, zeros=True, values=True)
    if method == "rate":
        prices = {layer.name: 1.0 for layer in model.layers if hasattr(layer, "kernel")}
        return model, GridWeights(list_grid_tensors(model, prices, dict.fromkeys(prices), False), RATE, RAMP_STEPS)
    if method == "qat":
        simulated, _ = qat.simulate_int8(model, ACTIVATIONS)
        qat.find_ranges(simulated, data.inputs(data.train.x[:200]))
        return simulated, None
    return model, None


def _train_with_fit(case: Case, epochs: int, images: int | None) -> None:
    data = load_fashion(images)
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras

    if case.deterministic:
        tf_keras.utils.set_random_seed(0)
        tf.config.experimental.enable_op_determinism()
    x, y = data.inputs(data.train.x), data.train.y
    model = build_model(case.model, data.shape, data.classes)
    turns = _Turns(len(x))

    class InTurn(tf_keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            turns.wait()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            turns.answer()

    callbacks = []
    if case.method == "cluster":
        start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
        model = tfmot.clustering.keras.cluster_weights(model, VALUES, start)
    elif case.method == "qat":
        model = tfmot.quantization.keras.quantize_model(model)
    elif case.method:
        end = epochs * -(-len(x) // BATCH) // 2
        schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, SPARSITY, 0, end, frequency=min(FREQUENCY, end))
        pattern = {"sparsity_m_by_n": (2, 4)} if case.method == "2 of 4" else {}
        model = tfmot.sparsity.keras.prune_low_magnitude(model, schedule, **pattern)
        callbacks.append(tfmot.sparsity.keras.UpdatePruningStep())
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    more = {"steps_per_execution": case.steps_per_execution} if case.steps_per_execution > 1 else {}
    model.compile(tf_keras.optimizers.Adam(), loss, metrics=["accuracy"], **more)
    # The clock is read last, after tfmot has masked the weights at the epoch's end, as lightexp does.
    model.fit(x, y, batch_size=BATCH, epochs=epochs, callbacks=[*callbacks, InTurn()], verbose=0)


if __name__ == "__main__":
    main()
