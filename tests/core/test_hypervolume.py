"""Fronts and hypervolumes, compared with Optuna's and with counts of grid cells."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from optuna._hypervolume import compute_hypervolume as compute_by_optuna

from lightexp.core.hypervolume import compute_hypervolume, compute_tradeoff_hypervolume, find_front


def draw_grid_points(columns: int) -> st.SearchStrategy[np.ndarray]:
    """Return a strategy for points of integers, many of which are equal in some or all columns."""
    shape = st.tuples(st.integers(1, 12), st.just(columns))
    return shape.flatmap(lambda s: arrays(np.int64, s, elements=st.integers(0, 6)))


@given(st.integers(1, 4).flatmap(draw_grid_points))
def test_find_front_has_no_dominated_points(points: np.ndarray) -> None:
    expected = [
        not any((other <= point).all() and (other < point).any() for other in points) for point in points
    ]  # fmt: skip
    assert find_front(points).tolist() == expected


@given(st.integers(1, 4).flatmap(draw_grid_points))
def test_compute_hypervolume_counts_dominated_cells(points: np.ndarray) -> None:
    cells = np.stack(np.meshgrid(*[np.arange(5)] * points.shape[1], indexing="ij"), -1).reshape(-1, points.shape[1])
    dominated = sum(any((point <= cell).all() for point in points) for cell in cells)
    assert compute_hypervolume(points, [5] * points.shape[1]) == pytest.approx(dominated)


@given(
    st.integers(2, 4).flatmap(
        lambda m: arrays(np.float64, st.tuples(st.integers(1, 20), st.just(m)), elements=st.floats(0, 1))
    )
)
def test_compute_hypervolume_equals_optuna(points: np.ndarray) -> None:
    reference = np.full(points.shape[1], 1.0)
    assert compute_hypervolume(points, reference.tolist()) == pytest.approx(
        compute_by_optuna(points, reference), abs=1e-12
    )


def test_compute_hypervolume_ignores_points_beyond() -> None:
    assert compute_hypervolume([(2.0, 0.0), (0.5, 0.5), (0.5, math.nan)], (1.0, 1.0)) == 0.25
    assert compute_hypervolume(np.empty((0, 2)), (1.0, 1.0)) == 0.0


def test_find_front_excludes_nan() -> None:
    assert find_front([(1.0, math.nan), (2.0, 2.0)]).tolist() == [False, True]


def test_compute_tradeoff_hypervolume() -> None:
    # Two halvings of the bytes, times the 0.75 between the error of guessing among four classes and no error.
    assert compute_tradeoff_hypervolume([100, 25], [0.0, 0.0], control=100, reference=0.75) == pytest.approx(1.5)
