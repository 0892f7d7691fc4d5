"""Tests of the expected calibration error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightexp.metrics.calibration import CalibrationError, compute_calibration_error
from lightexp.tasks.probabilities import compute_log_softmax
from tests.metrics.contexts import CORRECT, HALF_CORRECT, make_context

LOGITS = st.floats(-20, 20, width=32)


def test_error_equals_computation_by_hand() -> None:
    # Two examples of confidence 0.6, one of them correct, and two of confidence 0.9, both correct: two bins of ten.
    logits = np.log([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.1, 0.9]]).astype(np.float32)
    error = compute_calibration_error(logits, np.array([0, 1, 1, 1], np.int32), 10)
    assert error == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)


def test_measure_gives_the_error_on_validation() -> None:
    [metric] = CalibrationError().measure(make_context(HALF_CORRECT, CORRECT))
    assert (metric.name, metric.direction) == ("calibration/ece", "min")
    assert metric.value == pytest.approx(abs(0.5 - np.exp(2) / (np.exp(2) + 2)))


@given(arrays(np.float32, (12, 3), elements=LOGITS), arrays(np.int32, 12, elements=st.integers(0, 2)))
def test_error_equals_a_loop_over_bins(logits: np.ndarray, labels: np.ndarray) -> None:
    probabilities = np.exp(compute_log_softmax(logits))
    assert np.allclose(probabilities.sum(1), 1)
    confidence, is_correct = probabilities.max(1), logits.argmax(1) == labels
    expected = 0.0
    for low in range(15):
        in_bin = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if in_bin.any():
            expected += in_bin.mean() * abs(is_correct[in_bin].mean() - confidence[in_bin].mean())
    assert compute_calibration_error(logits, labels, 15) == pytest.approx(expected, abs=1e-9)
