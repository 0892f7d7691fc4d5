"""Milliseconds of quantising through the float flatbuffer against TensorFlow's converter.

LeNet-5 (untrained: weights do not change the time) on Fashion-MNIST. Ours is all that the `quantize` stage does: it
reads the float file, quantises it, reads the result back and tries it on an example; with the ranges of activations at
hand, as every trial after the first has them, and without, when 200 examples are run first. Theirs is
`TFLiteConverter.convert()` of the Keras model in memory, by `Optimize.DEFAULT`, and with 200 representative examples.
The two take turns. The first turn is not counted: ours starts a process then, and both import.

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

from common import Result, fashion, parser, report
from training import build

from lightexp.backend.stderr import silence_stderr
from lightexp.core.data import Data
from lightexp.core.protocols import Artifact, Context
from lightexp.models.lenet5 import LeNet5
from lightexp.runner.progress import SilentReporter
from lightexp.stages.calibration import Calibration
from lightexp.stages.quantize import Quantize

SAMPLES = 200


def main() -> None:
    """Makes the model and times each kind of quantisation."""
    options = parser(__doc__, runs=7).parse_args()
    runs, data = (1, fashion(200)) if options.smoke else (options.runs, fashion())
    from lightexp.backend import session

    threads = os.cpu_count() or 1
    session.start_tensorflow(threads)
    session.reset_graph(0)
    from lightexp.backend import keras_files

    model = build("lenet5", data.shape, data.classes)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        keras_files.save_model(model, source)
        ours = _Ours(Artifact("keras", source, {}, "k"), data, threads, Path(folder))
        ours.calibrate()
        theirs = {True: lambda: _converted(model, data), False: lambda: _converted(model, None)}
        results = [
            _compare("dynamic", ours.dynamic, theirs[False], runs, 1 / 20),
            _compare("int8, ranges at hand", ours.static, theirs[True], runs, 1 / 10),
            _compare("int8, ranges taken first", lambda: (ours.calibrate(), ours.static()), theirs[True], runs, 1 / 2),
        ]
    report(results, options.json)


class _Ours:
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
        with SilentReporter().working("quantize", 1, 1) as progress:
            return Context(self._data, LeNet5(), 0, self._threads, out, progress, ranges)


def _converted(model: Any, data: Data | None) -> bytes:
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


def _compare(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], runs: int, target: float) -> Result:
    mine, other = [], []
    for _ in range(runs + 1):
        start = time.perf_counter()
        ours()
        between = time.perf_counter()
        theirs()
        mine.append(1e3 * (between - start))
        other.append(1e3 * (time.perf_counter() - between))
    return Result(f"quantise lenet5, {name}", mine[1:], other[1:], "ms", target, at_least=False)


if __name__ == "__main__":
    main()
