"""Seconds that estimates for an NPU add to each measured file, against Vela's command line.

Untrained models (weights do not change the time much), quantised to int8 with integer inputs and outputs on random
images. lightexp does all that the measurement `npu` does for one target: it reads the file, compiles it in its sandbox
process and returns the metrics, of each operator, too. The other side is `vela` as a command with its summary. The two
take turns. The first file, for which the sandbox process loads the compiler, is a separate result.

    python experiments/benchmarks/npu.py --runs 5
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Result, make_parser, print_results

from lightexp.core.data import Data, Split
from lightexp.core.protocols import Artifact, Context, MeasurementContext
from lightexp.metrics.npu import Npu
from lightexp.runner.compose import compose_settings
from lightexp.runner.progress import SilentReporter
from lightexp.stages.calibration import Calibration
from lightexp.stages.quantize import Quantize

TARGET = "ethos_u55_128"
OPTIONS = ["--accelerator-config", "ethos-u55-128", "--system-config", "Ethos_U55_High_End_Embedded"]
OPTIONS += ["--memory-mode", "Shared_Sram", "--config", "Arm/vela.ini"]
SHAPES = {
    "lenet_300_100": (28, 28, 1),
    "lenet5": (28, 28, 1),
    "small_cnn": (28, 28, 1),
    "ds_cnn": (49, 10, 1),
    "resnet8": (32, 32, 3),
}
SAMPLES = 20


def main() -> None:
    """Make the files and time both sides on each."""
    options = make_parser(__doc__, runs=5).parse_args()
    runs, names = (1, ["lenet_300_100"]) if options.smoke else (options.runs, list(SHAPES))
    from lightexp.backend import session

    session.start_tensorflow(os.cpu_count() or 1)
    measurement = compose_settings(["measure=default", f"deploy=[{TARGET}]"]).measure["npu"]
    assert isinstance(measurement, Npu)
    with tempfile.TemporaryDirectory() as name:
        files = [(model, quantize(model, Path(name))) for model in names]
        results = [compare("the first file, which loads the compiler", files[0][1], measurement, 1, 2.0)]
        results += [compare(model, file, measurement, runs, 1.0) for model, file in files]
    print_results(results, options.json)


def quantize(name: str, folder: Path) -> Path:
    """Write a model's int8 file."""
    from lightexp.backend import keras_files, session

    data = make_data(SHAPES[name])
    source, ranges, result = (folder / name / part for part in ("source", "ranges", "result"))
    for part in (source, ranges, result):
        part.mkdir(parents=True)
    session.reset_graph(0)
    model = compose_settings([f"model={name}"]).model
    keras_files.save_model(model.build(data.shape, data.classes), source)
    artifact, inputs = Artifact("keras", source, {}, "k"), {"calibration": Artifact("keras", ranges, {}, "r")}
    with SilentReporter().stage("quantize", 1, 1) as progress:
        Calibration(SAMPLES).apply(artifact, Context(data, model, 0, 1, ranges, progress))
        stage = Quantize(scheme="int8", io="integer", calibration_samples=SAMPLES)
        stage.apply(artifact, Context(data, model, 0, 1, result, progress, inputs))
    return result / "model.tflite"


def make_data(shape: tuple[int, ...]) -> Data:
    """Return random images of 10 classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SAMPLES, *shape), dtype=np.uint8)
    split = Split(images, (np.arange(SAMPLES) % 10).astype(np.int32))
    return Data("random", split, split, split, 10, 1 / 255, 0.0)


def compare(name: str, file: Path, measurement: Npu, runs: int, target: float) -> Result:
    """Time both sides in turn."""
    context = MeasurementContext(file, file, make_data((1,)), 1)
    command = [sys.executable, "-m", "ethosu.vela", str(file), *OPTIONS, "--output-dir", str(file.parent / "vela")]
    ours, theirs = [], []
    for _ in range(runs):
        began = time.perf_counter()
        measurement.measure(context)
        between = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        ours.append(between - began)
        theirs.append(time.perf_counter() - between)
    note = f"{file.stat().st_size:,} bytes; at most 0.5 s: {'met' if max(ours) <= 0.5 else 'MISSED'}"
    return Result(f"estimate {name}", ours, theirs, "s", target, at_least=False, note=note)


if __name__ == "__main__":
    main()
