"""Pareto fronts and their hypervolume, a number for the quality of a set of trade-offs; all axes are minimised."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def find_front(points: ArrayLike) -> NDArray[np.bool_]:
    """Return a mask of the points that no other dominates; equal points are all on the front or none is.

    Args:
        points: Array `(n, m)`, every column to be minimised; a point with NaN is never on the front.

    Returns:
        Boolean array `(n,)`.

    Example:
        >>> find_front([[1, 3], [2, 2], [3, 3]]).tolist()
        [True, True, False]
    """
    values = np.asarray(points, np.float64)
    if values.size == 0:
        return np.zeros(len(values), np.bool_)
    on = np.asarray(np.logical_not(np.isnan(values)).all(axis=1))
    if on.any():
        # In lexicographic order, no point is dominated by a later one.
        ordered, places = np.unique(values[on], axis=0, return_inverse=True)
        is_front = _sweep_pairs(ordered) if ordered.shape[1] == 2 else _sweep(ordered)
        on[on] = is_front[places.reshape(-1)]
    return on


def _sweep_pairs(ordered: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the mask of the front of different points with two columns in lexicographic order."""
    lowest = np.minimum.accumulate(ordered[:, 1])
    return np.append(True, ordered[1:, 1] < lowest[:-1])


def _sweep(ordered: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the mask of the front of different points in lexicographic order, in steps of one point of the front."""
    is_front = np.zeros(len(ordered), np.bool_)
    remaining = np.arange(len(ordered))
    while len(remaining):
        is_front[remaining[0]] = True
        remaining = remaining[(ordered[remaining] < ordered[remaining[0]]).any(axis=1)]
    return is_front


def compute_hypervolume(points: ArrayLike, reference: Sequence[float]) -> float:
    """Return the volume that the points dominate below a reference point (Zitzler and Thiele 1998).

    The result is exact: two columns are swept along the first, more are sliced along the last.

    Args:
        points: Array `(n, m)`, every column to be minimised; points that are not better than `reference` in every
            column add nothing.
        reference: Array `(m,)`.

    Example:
        >>> compute_hypervolume([[0, 0.5], [0.5, 0]], [1, 1])
        0.75
    """
    corner = np.asarray(reference, np.float64)
    values = np.asarray(points, np.float64).reshape(-1, len(corner))
    return _compute_volume(values[(values < corner).all(axis=1)], corner)


def _compute_volume(values: NDArray[np.float64], corner: NDArray[np.float64]) -> float:
    if len(values) == 0:
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - values.min())
    values = values[np.argsort(values[:, -1], kind="stable")]
    if len(corner) == 2:  # a step down in the first column reaches from its second to the reference's
        lowest = np.minimum.accumulate(np.concatenate([corner[:1], values[:, 0]]))
        return float((lowest[:-1] - lowest[1:]) @ (corner[1] - values[:, 1]))
    upper = np.append(values[1:, -1], corner[-1])
    slices = ((high - low, n) for n, (low, high) in enumerate(zip(values[:, -1], upper, strict=True), 1) if high > low)
    total = 0.0
    for height, n in slices:
        flat = values[:n, :-1]
        total += height * _compute_volume(flat[find_front(flat)], corner[:-1])
    return total


def compute_tradeoff_hypervolume(
    sizes: Sequence[float], errors: Sequence[float], control: float, reference: float
) -> float:
    """Return the hypervolume of models on the axes log2(bytes / control's bytes) and error.

    The reference point is (control's bytes, error of guessing): a model as large as the control adds nothing.

    Args:
        sizes: File size of each model, in bytes.
        errors: Error of each model, from 0.
        control: File size of the control, in bytes.
        reference: Error of guessing.
    """
    points = [(math.log2(size / control), error) for size, error in zip(sizes, errors, strict=True)]
    return compute_hypervolume(points, (0.0, reference))
