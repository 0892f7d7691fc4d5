"""Tests of the hint objective."""

from __future__ import annotations

import numpy as np
import pytest

from lightexp.objectives.hint import Hint

pytestmark = pytest.mark.usefixtures("tensorflow")


def test_feature_loss_is_mean_square() -> None:
    features = np.random.default_rng(0).normal(size=(4, 3, 3, 2)).astype(np.float32)
    loss = Hint(weight=3.0).feature_loss(features, 2 * features)
    np.testing.assert_allclose(loss, 1.5 * np.mean(features.reshape(4, -1) ** 2, axis=1), rtol=1e-5)
