"""Measure accuracy and cross-entropy of the shipped file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import Count, settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric
from lightexp.metrics.logits import load_logits


@settings_dataclass
class Accuracy(Measurement):
    """Accuracy and mean cross-entropy on each visible split, run by LiteRT.

    Accuracies are fractions from 0 to 1, losses are nats per example. With more than ten classes, `accuracy/top5` is
    the fraction of test examples whose label is among the five most likely classes.

    Attributes:
        batch: Examples per batch.
    """

    gives = {
        "accuracy/val": "max",
        "accuracy/test": "max",
        "accuracy/top5": "max",
        "loss/val": "min",
        "loss/test": "min",
    }
    batch: Count = 50

    def measure(self, context: MeasurementContext) -> list[Metric]:
        """Measure `accuracy/*` and `loss/*`."""
        metrics = []
        for name in context.splits:
            labels = context.data.splits[name].y
            logits = load_logits(context, name, batch=self.batch)
            accuracy = float(np.mean(logits.argmax(axis=1) == labels))
            loss = compute_cross_entropy(logits, labels)
            metrics.append(Metric(f"accuracy/{name}", accuracy, "", "max", name, self.version))
            metrics.append(Metric(f"loss/{name}", loss, "nats", "min", name, self.version))
            if name == "test" and context.data.classes > 10:
                top5 = compute_top_k(logits, labels, 5)
                metrics.append(Metric("accuracy/top5", top5, "", "max", name, self.version))
        return metrics


def compute_cross_entropy(logits: NDArray[np.float32], labels: NDArray[np.int32]) -> float:
    """Compute the mean cross-entropy in nats.

    Args:
        logits: Array `(n, classes)`.
        labels: Array `(n,)`.

    Returns:
        Mean over the examples.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    label_logits = shifted[np.arange(len(labels)), labels]
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - label_logits))


def compute_top_k(logits: NDArray[np.float32], labels: NDArray[np.int32], k: int) -> float:
    """Compute the fraction of examples whose label is among the `k` classes of the highest logits.

    Args:
        logits: Array `(n, classes)`.
        labels: Array `(n,)`.
        k: Number of classes.

    Returns:
        Fraction from 0 to 1.
    """
    label_logits = logits[np.arange(len(labels)), labels][:, None]
    return float(np.mean((logits > label_logits).sum(axis=1) < k))
