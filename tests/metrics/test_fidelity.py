"""Agreement, divergence, calibration and accuracy by class, against computations by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightexp.core.data import Data, Split
from lightexp.core.protocols import MeasurementContext, Metric, Note
from lightexp.metrics.accuracy import Accuracy
from lightexp.metrics.calibration import CalibrationError, compute_calibration_error
from lightexp.metrics.fidelity import Fidelity
from lightexp.metrics.logits import compute_log_softmax, load_logits
from lightexp.metrics.per_class import PerClass
from tests.metrics import tiny

FILE, CONTROL = Path("file.tflite"), Path("control.tflite")  # neither is there: all answers are in the cache
LABELS = np.array([0, 1, 2, 0], np.int32)
NONE = Split(np.empty((0, 1)), np.empty(0, np.int32))


def subject(mine: list[list[float]], controls: list[list[float]], names: tuple[str, ...] = ()) -> MeasurementContext:
    """A file whose answers on validation are known, beside its control."""
    data = Data("known", NONE, Split(np.zeros((4, 1)), LABELS), NONE, 3, names=names)
    cache = {(FILE, "val"): np.array(mine, np.float32), (CONTROL, "val"): np.array(controls, np.float32)}
    return MeasurementContext(FILE, CONTROL, data, 1, ("val",), cache=cache)


HALF = [[2, 0, 0], [0, 2, 0], [0, 2, 0], [0, 0, 2]]
CONTROLS = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_agreement_and_divergence_by_hand() -> None:
    agreement, kl = Fidelity().measure(subject(HALF, CONTROLS))
    assert (agreement.name, agreement.value, agreement.split) == ("fidelity/agreement", 0.5, "val")
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (np.array(CONTROLS, float), np.array(HALF, float)))
    assert (kl.name, kl.unit, kl.direction) == ("fidelity/kl", "nats", "min")
    assert kl.value == pytest.approx((p * np.log(p / q)).sum(1).mean())
    agreement, kl = Fidelity().measure(subject(CONTROLS, CONTROLS))
    assert (agreement.value, kl.value) == (1, 0)


def test_each_class_by_its_name() -> None:
    found = PerClass().measure(subject(HALF, CONTROLS, ("cat", "dog", "emu")))
    assert [(one.name, one.value) for one in found if isinstance(one, Metric)] == [
        ("accuracy/class/cat", 0.5),
        ("accuracy/class/dog", 1.0),
        ("accuracy/class/emu", 0.0),
    ]


def test_a_class_that_a_split_lacks_is_a_note() -> None:
    lacking = subject(HALF, CONTROLS)
    lacking.data.val.y[2] = 1
    assert [one for one in PerClass().measure(lacking) if isinstance(one, Note)] == [
        Note("accuracy/class/2", "the val split has no example of it")
    ]
    lacking.data.val.y[2] = 2


def test_calibration_by_hand() -> None:
    # Sure of 0.6 and right once of two; sure of 0.9 and always right; two bins of ten hold them.
    sure = np.log([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.1, 0.9]]).astype(np.float32)
    assert compute_calibration_error(sure, np.array([0, 1, 1, 1], np.int32), 10) == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)
    [figure] = CalibrationError().measure(subject(HALF, CONTROLS))
    assert (figure.name, figure.direction) == ("calibration/ece", "min")
    assert figure.value == pytest.approx(abs(0.5 - np.exp(2) / (np.exp(2) + 2)))


finite = st.floats(-20, 20, width=32)


@given(arrays(np.float32, (12, 3), elements=finite), arrays(np.int32, 12, elements=st.integers(0, 2)))
def test_calibration_is_that_of_a_loop_over_bins(answers: np.ndarray, labels: np.ndarray) -> None:
    likely = np.exp(compute_log_softmax(answers))
    assert np.allclose(likely.sum(1), 1)
    confidence, right = likely.max(1), answers.argmax(1) == labels
    expected = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert compute_calibration_error(answers, labels, 15) == pytest.approx(expected, abs=1e-9)


def test_a_file_answers_once_for_all_measurements(tmp_path: Path) -> None:
    path, control = tmp_path / "m.tflite", tmp_path / "control.tflite"
    path.write_bytes(tiny.flat("conv", "int8"))
    control.write_bytes(tiny.flat("conv"))
    one = MeasurementContext(path, control, tiny.data("conv"), 1)
    figures = {figure.name: figure.value for figure in Accuracy().measure(one)}
    load_logits(one, "val", control=True)
    load_logits(one, "test", control=True)
    path.unlink()
    control.unlink()
    measured = [*Fidelity().measure(one), *CalibrationError().measure(one), *PerClass().measure(one)]
    figures |= {figure.name: figure.value for figure in measured if isinstance(figure, Metric)}
    assert 0.5 < figures["fidelity/agreement"] <= 1
    assert 0 < figures["fidelity/kl_test"] < 0.1
    for split, suffix in (("val", ""), ("test", "_test")):
        labels = one.data.splits[split].y
        by_class = [figures[f"accuracy/class{suffix}/{c}"] * (labels == c).sum() for c in range(tiny.CLASSES)]
        assert sum(by_class) / len(labels) == pytest.approx(figures[f"accuracy/{split}"])


def test_the_test_split_is_looked_at_only_where_it_may(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(tiny.flat("dense"))
    one = MeasurementContext(path, path, tiny.data("dense"), 1, ("val",))
    for measurement in (Fidelity(), CalibrationError(), PerClass()):
        assert all(figure.split == "val" for figure in measurement.measure(one) if isinstance(figure, Metric))
    assert set(one.cache) == {(path, "val")}
