"""Milliseconds of quantising through the float flatbuffer against TensorFlow's converter.

LeNet-5 (untrained: weights do not change the time) on Fashion-MNIST. lightexp does all that the `quantize` stage does:
it reads the float file, quantises it, reads the result and runs it on an example; with known ranges of activations, as
every trial after the first has them, and without, when 200 examples are run first. The converter does
`TFLiteConverter.convert()` of the Keras model in memory, by `Optimize.DEFAULT`, and with 200 representative examples.
The two take turns. The first turn is not counted: lightexp starts a process in it, and both import.

    python experiments/benchmarks/quantizing.py --runs 7
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Result, load_fashion, make_parser, print_results
from training import build_model

from lightexp.backend.stderr import silence_stderr
from lightexp.core.data import Data
from lightexp.core.protocols import Artifact, Context
from lightexp.models.lenet5 import LeNet5
from lightexp.runner.progress import SilentReporter
from lightexp.stages.calibration import Calibration
from lightexp.stages.quantize import Quantize

SAMPLES = 200


def main() -> None:
    """Build the model and time each kind of quantisation."""
    options = make_parser(__doc__, runs=7).parse_args()
    runs, data = (1, load_fashion(200)) if options.smoke else (options.runs, load_fashion())
    from lightexp.backend import session

    threads = os.cpu_count() or 1
    session.start_tensorflow(threads)
    session.reset_graph(0)
    from lightexp.backend import keras_files

    model = build_model("lenet5", data.shape, data.classes)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        keras_files.save_model(model, source)
        ours = QuantizeStage(Artifact("keras", source, {}, "k"), data, threads, Path(folder))
        ours.calibrate()
        theirs = {True: lambda: convert(model, data), False: lambda: convert(model, None)}
        results = [
            compare("dynamic", ours.dynamic, theirs[False], runs, 1 / 20),
            compare("int8, ranges at hand", ours.static, theirs[True], runs, 1 / 10),
            compare("int8, ranges taken first", lambda: (ours.calibrate(), ours.static()), theirs[True], runs, 1 / 2),
        ]
    print_results(results, options.json)


class QuantizeStage:
    """Runs lightexp's stages `calibration` and `quantize` on one model."""

    def __init__(self, source: Artifact, data: Data, threads: int, folder: Path) -> None:
        self._source, self._data, self._threads = source, data, threads
        self._ranges, self._out = folder / "ranges", folder / "out"
        self._ranges.mkdir()
        self._out.mkdir()

    def calibrate(self) -> None:
        Calibration(SAMPLES).apply(self._source, self._context(self._ranges))

    def static(self) -> None:
        Quantize(scheme="int8", calibration_samples=SAMPLES).apply(self._source, self._context(self._out))

    def dynamic(self) -> None:
        Quantize(scheme="dynamic").apply(self._source, self._context(self._out))

    def _context(self, out: Path) -> Context:
        ranges = {"calibration": Artifact("keras", self._ranges, {}, "r")}
        with SilentReporter().stage("quantize", 1, 1) as progress:
            return Context(self._data, LeNet5(), 0, self._threads, out, progress, ranges)


def convert(model: Any, data: Data | None) -> bytes:
    """Convert with TensorFlow's converter; to int8 if there are data to calibrate on."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if data is not None:
        samples = data.inputs(data.train.sample(SAMPLES))
        converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with silence_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bytes(converter.convert())


def compare(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], runs: int, target: float) -> Result:
    """Time both sides in turn; the first time of each is not counted."""
    our_times, their_times = [], []
    for _ in range(runs + 1):
        start = time.perf_counter()
        ours()
        between = time.perf_counter()
        theirs()
        our_times.append(1e3 * (between - start))
        their_times.append(1e3 * (time.perf_counter() - between))
    return Result(f"quantise lenet5, {name}", our_times[1:], their_times[1:], "ms", target, at_least=False)


if __name__ == "__main__":
    main()
