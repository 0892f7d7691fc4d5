"""Tests of the cross-entropy objective."""

from __future__ import annotations

import numpy as np
import pytest

from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.tasks.classification import Classification
from tests.objectives.examples import LABELS, compute_cross_entropy, make_logits

pytestmark = pytest.mark.usefixtures("tensorflow")
TASK = Classification()


def test_loss_equals_formula() -> None:
    loss = CrossEntropy().compute_loss(TASK, make_logits(0), LABELS, {})
    assert loss.shape == (4,)
    np.testing.assert_allclose(loss, compute_cross_entropy(make_logits(0)), rtol=1e-5)
    assert CrossEntropy().teachers == {}
