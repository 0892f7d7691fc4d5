"""Tests of the logits that measurements share."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightexp.core.protocols import MeasurementContext, Metric
from lightexp.metrics.accuracy import Accuracy
from lightexp.metrics.calibration import CalibrationError
from lightexp.metrics.fidelity import Fidelity
from lightexp.metrics.logits import load_logits
from lightexp.metrics.per_class import PerClass
from tests.metrics import tiny_models


def test_file_runs_once_for_all_measurements(tmp_path: Path) -> None:
    path, control = tmp_path / "m.tflite", tmp_path / "control.tflite"
    path.write_bytes(tiny_models.make_tflite("conv", "int8"))
    control.write_bytes(tiny_models.make_tflite("conv"))
    shares: list[float] = []
    context = MeasurementContext(path, control, tiny_models.make_data("conv"), 1, report=shares.append)
    values = {metric.name: metric.value for metric in Accuracy().measure(context)}
    assert shares == sorted(shares)
    assert (0 < shares[0] < 1, shares[-1]) == (True, 1)
    load_logits(context, "val", control=True)
    load_logits(context, "test", control=True)
    path.unlink()
    control.unlink()
    results = [*Fidelity().measure(context), *CalibrationError().measure(context), *PerClass().measure(context)]
    values |= {metric.name: metric.value for metric in results if isinstance(metric, Metric)}
    assert 0.5 < values["fidelity/agreement"] <= 1
    assert 0 < values["fidelity/kl_test"] < 0.1
    for split, suffix in (("val", ""), ("test", "_test")):
        labels = context.data.splits[split].y
        correct = [
            values[f"accuracy/class{suffix}/{label}"] * (labels == label).sum() for label in range(tiny_models.CLASSES)
        ]
        assert sum(correct) / len(labels) == pytest.approx(values[f"accuracy/{split}"])


def test_hidden_test_split_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(tiny_models.make_tflite("dense"))
    context = MeasurementContext(path, path, tiny_models.make_data("dense"), 1, ("val",))
    for measurement in (Fidelity(), CalibrationError(), PerClass()):
        assert all(metric.split == "val" for metric in measurement.measure(context) if isinstance(metric, Metric))
    assert set(context.cache) == {(path, "val")}
