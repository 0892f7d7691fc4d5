"""Tests of agreement and divergence, against computations by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lightexp.metrics.fidelity import Fidelity
from tests.metrics.contexts import CORRECT, HALF_CORRECT, make_context


def test_agreement_and_kl_equal_computation_by_hand() -> None:
    agreement, kl = Fidelity().measure(make_context(HALF_CORRECT, CORRECT))
    assert (agreement.name, agreement.value, agreement.split) == ("fidelity/agreement", 0.5, "val")
    p, q = (
        np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (np.array(CORRECT, float), np.array(HALF_CORRECT, float))
    )
    assert (kl.name, kl.unit, kl.direction) == ("fidelity/kl", "nats", "min")
    assert kl.value == pytest.approx((p * np.log(p / q)).sum(1).mean())


def test_control_agrees_with_itself() -> None:
    agreement, kl = Fidelity().measure(make_context(CORRECT, CORRECT))
    assert (agreement.value, kl.value) == (1, 0)
