"""A complete `lightexp run` against the script that one would write by hand with Keras, tfmot and TFLite.

Both train a model on Fashion-MNIST, prune it while training further (same epochs, batch, schedule, validation after
each epoch), strip the masks and convert with `Optimize.DEFAULT`. Compared are the seconds of that work: the script's
from the loaded data to the written file, lightexp's the sum of the stages' seconds in `record.json`. Start-up and
measurements are not included; a note gives the wall times. Each run is a new process, for lightexp with an empty
store; the two run in turn.

    python experiments/benchmarks/script.py --runs 3
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import Result, load_fashion, make_parser, print_results, run_command, run_lightexp, write_few
from training import build_model

TARGETS = {"lenet_300_100": 0.8, "small_cnn": 1.05}
SPARSITY, FREQUENCY = 0.8, 100
SMOKE_IMAGES = 1000


def main() -> None:
    """Run the comparison, or the hand-written script as its child process."""
    options = make_parser(__doc__, runs=3)
    options.add_argument("--only", choices=TARGETS, action="append", help="this model (default: all)")
    options.add_argument("--epochs", type=int, default=3, help="of training, and again of pruning (default: 3)")
    options.add_argument("--batch", type=int, default=128, help="batch size (default: 128)")
    options.add_argument("--by-hand", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.smoke:
        chosen.runs, chosen.epochs = 1, 1
    if chosen.by_hand:
        run_script(chosen.only[0], chosen.epochs, chosen.batch, chosen.by_hand, chosen.smoke)
        return
    print_results([compare(model, chosen) for model in chosen.only or TARGETS], chosen.json)


def compare(model: str, chosen: argparse.Namespace) -> Result:
    """Run both sides in turn on one model."""
    load_fashion()  # so that it is downloaded, and in the file cache
    ours, theirs, walls = [], [], []
    for _ in range(chosen.runs):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            start = time.perf_counter()
            ours.append(run_stages(model, chosen, folder))
            between = time.perf_counter()
            arguments = ["--only", model, "--epochs", str(chosen.epochs), "--batch", str(chosen.batch)]
            arguments += ["--smoke"] if chosen.smoke else []
            printed = run_command(
                [sys.executable, __file__, *arguments, "--by-hand", str(folder / "by_hand.tflite")], folder
            )
            theirs.append(float(printed.splitlines()[-1]))
            walls.append((between - start, time.perf_counter() - between))
    totals = [statistics.median(side) for side in zip(*walls, strict=True)]
    note = f"wall time: ours with its measurements {totals[0]:.1f} s, theirs {totals[1]:.1f} s"
    return Result(model, ours, theirs, "s", TARGETS[model], at_least=False, note=note)


def run_stages(model: str, chosen: argparse.Namespace, folder: Path) -> float:
    """Run the command and return the seconds of its stages."""
    stages = [
        f"pipeline.stages.{stage}.{setting}"
        for stage in ("train", "prune")
        for setting in (f"epochs={chosen.epochs}", f"batch_size={chosen.batch}")
    ]
    prune = {"sparsity": SPARSITY, "begin": 0, "end": 0.5}
    stages += [f"pipeline.stages.prune.{name}={value}" for name, value in prune.items()]
    data = ["dataset=fashion_mnist"]
    if chosen.smoke:
        data = write_few(folder, SMOKE_IMAGES)
    overrides = [f"model={model}", *data, "pipeline=prune_quantize", "tracking=none", *stages]
    run_lightexp(["run", *overrides], folder)
    (record,) = (folder / "outputs" / "runs").glob("*/record.json")
    return float(sum(stage["seconds"] for stage in json.loads(record.read_text(encoding="utf-8"))["stages"]))


def run_script(name: str, epochs: int, batch: int, file: Path, smoke: bool) -> None:
    """Do what the hand-written script does, and print the seconds of its work."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras

    data = load_fashion(SMOKE_IMAGES if smoke else None)
    x, y = data.inputs(data.train.x), data.train.y
    validation = data.inputs(data.val.x), data.val.y
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    start = time.perf_counter()
    model = build_model(name, data.shape, data.classes)
    model.compile(tf_keras.optimizers.Adam(), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=batch, epochs=epochs, validation_data=validation, verbose=2)

    steps = epochs * -(-len(x) // batch)
    frequency = max(1, min(FREQUENCY, steps // 20))
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, SPARSITY, 0, steps // 2, frequency=frequency)
    pruned = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    pruned.compile(tf_keras.optimizers.Adam(), loss, metrics=["accuracy"])
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    pruned.fit(x, y, batch_size=batch, epochs=epochs, validation_data=validation, callbacks=callbacks, verbose=2)
    stripped = tfmot.sparsity.keras.strip_pruning(pruned)
    converter = tf.lite.TFLiteConverter.from_keras_model(stripped)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    file.write_bytes(converter.convert())
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
