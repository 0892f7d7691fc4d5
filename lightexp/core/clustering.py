"""K-means clustering of single numbers, fast because clusters are intervals of the sorted values."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Init = Literal["kmeans++", "linear", "density", "random"]
_MAX_ITERATIONS = 100


def cluster_weights(values: NDArray[np.float32], k: int, init: Init, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the array with every value replaced by the nearest of at most `k` centroids; zeros stay zero.

    Lloyd's algorithm from k-means++ (Arthur and Vassilvitskii 2007), from values evenly spread between the extremes
    (`linear`) or over the distribution (`density`), or drawn from the values (`random`).

    Args:
        values: Array of any shape.
        k: Number of different values in the result, 0 included; at least 2.
        init: How the initial centroids are chosen.
        rng: Random generator that draws them.
    """
    distinct, counts = np.unique(values[values != 0], return_counts=True)
    if np.any(values == 0):
        k -= 1
    if len(distinct) <= k:
        return values
    points = distinct.astype(np.float64)
    count_before = np.concatenate([[0], np.cumsum(counts)])
    sums = np.concatenate([[0], np.cumsum(points * counts)])
    centroids = np.sort(_choose_centroids(points, counts, k, init, rng))
    for _ in range(_MAX_ITERATIONS):
        edges = np.searchsorted(points, (centroids[1:] + centroids[:-1]) / 2)
        first, last = np.concatenate([[0], edges]), np.concatenate([edges, [len(points)]])
        members = count_before[last] - count_before[first]
        means = (sums[last] - sums[first]) / np.maximum(members, 1)
        moved = np.where(members > 0, means, centroids)  # an empty cluster keeps its centroid
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    nearest = centroids[np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values.astype(np.float64))]
    return np.where(values == 0, 0, nearest).astype(np.float32)


def _choose_centroids(
    points: NDArray[np.float64], counts: NDArray[np.int64], k: int, init: Init, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return `k` initial centroids among the sorted values `points`, of which each occurs `counts` times."""
    if init == "linear":
        return np.linspace(points[0], points[-1], k)
    if init == "density":
        places = (np.arange(k) + 0.5) / k * counts.sum()
        return np.asarray(points[np.searchsorted(np.cumsum(counts), places)])
    if init == "random":
        return rng.choice(points, k, replace=False)
    chosen = [points[rng.choice(len(points), p=counts / counts.sum())]]
    distance = np.full(len(points), np.inf)
    for _ in range(k - 1):
        distance = np.minimum(distance, (points - chosen[-1]) ** 2)
        weight = np.cumsum(distance * counts)
        chosen.append(points[np.searchsorted(weight, rng.random() * weight[-1], side="right")])
    return np.array(chosen)
