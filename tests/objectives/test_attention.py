"""Tests of the attention objective."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightexp.objectives.attention import Attention

pytestmark = pytest.mark.usefixtures("tensorflow")


def compute_map(features: Any) -> Any:
    """Compute attention maps `(n, positions)` of length 1."""
    flat = np.mean(features.astype(np.float64) ** 2, axis=-1).reshape(4, -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def test_feature_loss_compares_normalised_maps() -> None:
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(size=(4, 3, 3, channels)).astype(np.float32) for channels in (2, 5))
    loss = Attention(beta=10.0).feature_loss(student, teacher)
    expected = 10 * np.mean((compute_map(student) - compute_map(teacher)) ** 2, axis=1)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_feature_loss_ignores_scale_and_channels() -> None:
    features = np.random.default_rng(0).normal(size=(4, 3, 3, 2)).astype(np.float32)
    loss = Attention().feature_loss(features, np.repeat(features, 3, axis=-1) * 7)
    np.testing.assert_allclose(loss, 0, atol=1e-5)
