"""How often the shipped file is right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import Count, settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric
from lightexp.metrics.logits import load_logits


@settings_dataclass
class Accuracy(Measurement):
    """Accuracy and mean cross-entropy, run by LiteRT on each split that may be looked at.

    Accuracies are fractions from 0 to 1, losses are nats an example. With more than ten classes the test split also
    gives the share of examples whose label is among the five likeliest.

    Attributes:
        batch: Examples that go in at once.
    """

    gives = {
        "accuracy/val": "max",
        "accuracy/test": "max",
        "accuracy/top5": "max",
        "loss/val": "min",
        "loss/test": "min",
    }
    batch: Count = 50

    def measure(self, subject: MeasurementContext) -> list[Metric]:
        """Measures `accuracy/*` and `loss/*`."""
        figures = []
        for name in subject.splits:
            split, found = subject.data.splits[name], load_logits(subject, name, batch=self.batch)
            right = float(np.mean(found.argmax(axis=1) == split.y))
            figures.append(Metric(f"accuracy/{name}", right, "", "max", name, self.version))
            figures.append(Metric(f"loss/{name}", cross_entropy(found, split.y), "nats", "min", name, self.version))
            if name == "test" and subject.data.classes > 10:
                figures.append(Metric("accuracy/top5", top(found, split.y, 5), "", "max", name, self.version))
        return figures


def cross_entropy(logits: NDArray[np.float32], labels: NDArray[np.int32]) -> float:
    """Mean cross-entropy in nats of logits `(n, classes)` against labels `(n,)`."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    of_label = shifted[np.arange(len(labels)), labels]
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - of_label))


def top(logits: NDArray[np.float32], labels: NDArray[np.int32], k: int) -> float:
    """Share of examples for which fewer than `k` classes have a higher logit than the label."""
    of_label = logits[np.arange(len(labels)), labels][:, None]
    return float(np.mean((logits > of_label).sum(axis=1) < k))
