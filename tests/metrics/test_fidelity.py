"""Tests of agreement and divergence, against computations by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightexp.backend.flatbuffer import read_graph
from lightexp.core.protocols import MeasurementContext, Metric, Note
from lightexp.metrics.fidelity import Fidelity
from lightexp.tasks.regression import Regression
from tests.metrics import tiny_models
from tests.metrics.contexts import CONTROL, CORRECT, HALF_CORRECT, make_context
from tests.tasks.examples import make_data


def test_agreement_and_kl_equal_computation_by_hand() -> None:
    agreement, kl = Fidelity().measure(make_context(HALF_CORRECT, CORRECT))
    assert isinstance(agreement, Metric) and isinstance(kl, Metric)
    assert (agreement.name, agreement.value, agreement.split) == ("fidelity/agreement", 0.5, "val")
    p, q = (
        np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (np.array(CORRECT, float), np.array(HALF_CORRECT, float))
    )
    assert (kl.name, kl.unit, kl.direction) == ("fidelity/kl", "nats", "min")
    assert kl.value == pytest.approx((p * np.log(p / q)).sum(1).mean())


def test_control_agrees_with_itself() -> None:
    values = [
        metric.value for metric in Fidelity().measure(make_context(CORRECT, CORRECT)) if isinstance(metric, Metric)
    ]
    assert values == [1, 0]


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_outputs_beyond_the_range_of_integers_are_counted(scheme: str, tmp_path: Path) -> None:
    file = tmp_path / "file.tflite"
    file.write_bytes(tiny_models.make_tflite("dense", scheme))
    limits = read_graph(file).output_range
    assert limits is not None
    outputs = np.linspace(limits[0], limits[1], 100, dtype=np.float32)[:, None] * np.float32([0.99, 0.99, 0.99, 2.0])
    data = Regression(standardize=False).prepare(make_data(np.random.default_rng(0).random((100, 4)), classes=0))
    cache = {(file, "val"): outputs, (CONTROL, "val"): outputs}
    results = Fidelity().measure(MeasurementContext(file, CONTROL, data, 1, ("val",), cache=cache))
    assert [result.name for result in results] == ["fidelity/rmse", "fidelity/clipped", "fidelity/clipped"]
    assert isinstance(results[1], Metric) and results[1].value == pytest.approx(0.125, abs=0.01)
    assert isinstance(results[2], Note) and "of the control's outputs lie outside" in results[2].text
    assert set(Fidelity().list_metrics(data.task)) >= {"fidelity/rmse", "fidelity/clipped_test"}


def test_float_outputs_have_no_range(tmp_path: Path) -> None:
    for scheme in ("float", "dynamic"):
        (tmp_path / scheme).write_bytes(tiny_models.make_tflite("dense", scheme))
        assert read_graph(tmp_path / scheme).output_range is None
