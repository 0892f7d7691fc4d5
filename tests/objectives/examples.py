"""Random logits, and reference formulas in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LABELS = np.array([0, 2, 1, 2], np.int32)


def make_logits(seed: int) -> NDArray[np.float32]:
    """Return random logits `(4, 3)`."""
    return np.random.default_rng(seed).normal(0, 4, (4, 3)).astype(np.float32)


def compute_softmax(logits: Any, temperature: float = 1.0) -> Any:
    """Compute probabilities `(n, classes)` in float64."""
    powers = np.exp(np.asarray(logits, np.float64) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def compute_cross_entropy(logits: Any) -> Any:
    """Compute the cross-entropy `(4,)` with `LABELS`."""
    return -np.log(compute_softmax(logits)[np.arange(4), LABELS])
