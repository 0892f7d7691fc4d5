"""Clustering of weights, against the properties of k-means' fixed points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.clustering import cluster_weights

INITS: Any = ["kmeans++", "linear", "density", "random"]


def compute_error(values: Any, clustered: Any) -> float:
    """Return the sum of squared differences."""
    return float(((values.astype(np.float64) - clustered) ** 2).sum())


@pytest.mark.parametrize("init", INITS)
@given(seed=st.integers(0, 2**31), k=st.integers(2, 20), sparsity=st.sampled_from([0.0, 0.5, 0.95]))
def test_cluster_weights_keeps_zeros_and_uses_means(init: Any, seed: int, k: int, sparsity: float) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(17, 9)) * (rng.random((17, 9)) >= sparsity)).astype(np.float32)
    clustered = cluster_weights(values, k, init, np.random.default_rng(0))
    assert clustered.shape == values.shape
    assert clustered.dtype == np.float32
    assert len(np.unique(clustered)) <= k
    np.testing.assert_array_equal(clustered[values == 0], 0)
    distinct = len(np.unique(values))
    if distinct <= k:
        np.testing.assert_array_equal(clustered, values)
    else:
        check_lloyds_fixed_point(values, clustered)


def check_lloyds_fixed_point(values: Any, clustered: Any) -> None:
    """Check that each value is the mean of its weights, and that each weight has the nearest value."""
    for value in np.unique(clustered[values != 0]):
        assert values[clustered == value].mean() == pytest.approx(value, abs=1e-4)  # Lloyd's fixed point
    centres = np.unique(clustered[values != 0])
    nearest = np.abs(values[..., None] - centres).min(axis=-1)
    np.testing.assert_allclose(np.abs(values - clustered)[values != 0], nearest[values != 0], atol=1e-5)


@pytest.mark.parametrize("init", INITS)
def test_cluster_weights_finds_clear_clusters(init: Any) -> None:
    centres = np.array([-3.0, -1.0, 0.5, 4.0])
    rng = np.random.default_rng(1)
    values = (rng.choice(centres, 500) + rng.normal(scale=0.01, size=500)).astype(np.float32)
    best = min(
        compute_error(values, cluster_weights(values, 4, init, np.random.default_rng(seed))) for seed in range(5)
    )
    # A single run of k-means may end in a poorer local optimum; the best of a few runs does not.
    assert best < 500 * 0.01**2 * 2 or init in ("linear", "density")
    if init == "kmeans++":
        np.testing.assert_allclose(
            np.unique(cluster_weights(values, 4, init, np.random.default_rng(0))), centres, atol=0.01
        )
