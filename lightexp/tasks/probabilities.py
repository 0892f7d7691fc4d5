"""Measures of class probabilities that tasks share: cross-entropy, top-k, agreement and divergence."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightexp.core.class_counts import find_top
from lightexp.core.memmap import sum_chunks
from lightexp.core.metrics import Metric

AGREEMENT: dict[str, Literal["max", "min"] | None] = {"fidelity/agreement": "max", "fidelity/kl": "min"}
"""Names and directions of the metrics of `measure_agreement`."""


def add_zero_logit(logits: NDArray[Any]) -> NDArray[Any]:
    """Return the logits of both classes, `(n, 2)`, whose softmax has the sigmoid of `(n, 1)` as its second column."""
    return np.concatenate([np.zeros_like(logits), logits], axis=1)


def compute_log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute log-probabilities `(n, classes)` in nats from logits of the same shape."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_probabilities: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_probabilities


def compute_cross_entropy(logits: NDArray[np.float32], labels: NDArray[np.int32]) -> float:
    """Compute the mean cross-entropy in nats.

    Args:
        logits: Array `(n, classes)`.
        labels: Array `(n,)`.

    Returns:
        Mean over the examples.
    """

    def sum_losses(logits: NDArray[np.float32], labels: NDArray[np.int32]) -> float:
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        label_logits = shifted[np.arange(len(labels)), labels]
        return float(np.sum(np.log(np.exp(shifted).sum(axis=1)) - label_logits))

    return float(sum_chunks(sum_losses, logits, labels) / len(labels))


def compute_top_k(logits: NDArray[np.float32], labels: NDArray[np.int32], k: int) -> float:
    """Compute the fraction of examples whose label is among the `k` classes of the highest logits.

    Args:
        logits: Array `(n, classes)`.
        labels: Array `(n,)`.
        k: Number of classes.

    Returns:
        Fraction from 0 to 1.
    """

    def count_among(logits: NDArray[np.float32], labels: NDArray[np.int32]) -> int:
        label_logits = logits[np.arange(len(labels)), labels][:, None]
        return int(np.count_nonzero((logits > label_logits).sum(axis=1) < k))

    return float(sum_chunks(count_among, logits, labels) / len(labels))


def measure_agreement(logits: NDArray[Any], control: NDArray[Any], version: int) -> list[Metric]:
    """Measure the share of equal top classes, and KL(control || file) between the softmaxes.

    Args:
        logits: The file's logits `(n, classes)`.
        control: The control's logits of the same shape.
        version: Version of the metrics.

    Returns:
        `fidelity/agreement` and `fidelity/kl`.
    """

    def sum_agreement(logits: NDArray[Any], control: NDArray[Any]) -> NDArray[np.float64]:
        log_target = compute_log_softmax(control)
        terms = np.exp(log_target) * (log_target - compute_log_softmax(logits))
        return np.array([np.count_nonzero(find_top(logits) == find_top(control)), terms.sum(axis=1).sum()])

    agreement, kl = (sum_chunks(sum_agreement, logits, control) / len(logits)).tolist()
    return [
        Metric("fidelity/agreement", agreement, "", "max", version=version),
        Metric("fidelity/kl", max(kl, 0.0), "nats", "min", version=version),
    ]
