"""Metrics of outputs that are constant, or as large as float32 can be: each is a finite number, without a warning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightexp.core.data import Data, Split
from lightexp.core.protocols import Measurement, MeasurementContext, Metric
from lightexp.metrics.accuracy import Accuracy
from lightexp.metrics.calibration import CalibrationError
from lightexp.metrics.entropy import count_entropy_bits
from lightexp.metrics.fidelity import Fidelity
from lightexp.metrics.per_class import PerClass

EXAMPLES, CLASSES = 24, 12
LARGEST = float(np.finfo(np.float32).max)
CONSTANT = np.zeros((EXAMPLES, CLASSES), np.float32)
ONE_CLASS = CONSTANT.copy()
ONE_CLASS[:, 3] = LARGEST
OPPOSITE = CONSTANT - LARGEST
OPPOSITE[:, 5] = LARGEST
OUTPUTS = {"constant": CONSTANT, "one_class": ONE_CLASS, "opposite": OPPOSITE, "largest": CONSTANT + LARGEST}


@pytest.mark.parametrize("control", OUTPUTS)
@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("measurement", [Accuracy(), CalibrationError(), Fidelity(), PerClass()])
def test_metrics_are_finite(measurement: Measurement, name: str, control: str) -> None:
    split = Split(np.zeros((EXAMPLES, 1), np.uint8), (np.arange(EXAMPLES) % CLASSES).astype(np.int32))
    data = Data("extreme", split, split, split, CLASSES)
    file, control_file = Path("model.tflite"), Path("control.tflite")
    cache = {(file, split): OUTPUTS[name] for split in ("val", "test")}
    cache |= {(control_file, split): OUTPUTS[control] for split in ("val", "test")}
    metrics = measurement.measure(MeasurementContext(file, control_file, data, 1, cache=cache))
    assert all(isinstance(metric, Metric) and np.isfinite(metric.value) for metric in metrics)


@pytest.mark.parametrize("values", [np.zeros(9, np.float32), np.full(400, LARGEST, np.float32), np.zeros(1, np.int8)])
def test_entropy_of_constant_weights_is_zero(values: np.ndarray) -> None:
    assert count_entropy_bits(values) == 0
