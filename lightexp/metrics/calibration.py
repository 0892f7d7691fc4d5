"""Whether the shipped file is as sure as it is right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import Count, settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric
from lightexp.metrics.logits import compute_log_softmax, get_split_suffix, load_logits


@settings_dataclass
class Calibration(Measurement):
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599), from 0 to 1.

    `calibration/ece` on the validation split; `calibration/ece_test` where the test split may be looked at.

    Attributes:
        bins: Of equal width, over the probability of the class put first. Defaults to 15, the paper's.
    """

    gives = {"calibration/ece": "min", "calibration/ece_test": "min"}
    bins: Count = 15

    def measure(self, subject: MeasurementContext) -> list[Metric]:
        """Measures `calibration/*`."""
        return [
            Metric(
                f"calibration/ece{get_split_suffix(name)}",
                expected_error(load_logits(subject, name), subject.data.splits[name].y, self.bins),
                "",
                "min",
                name,
                self.version,
            )
            for name in subject.splits
        ]


def expected_error(logits: NDArray[np.float32], labels: NDArray[np.int32], bins: int) -> float:
    """Mean gap between confidence and accuracy over bins of confidence, weighted by the examples in each.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)`.
        bins: How many; a bin holds the confidences above its lower edge up to its upper one.
    """
    confidence = np.exp(compute_log_softmax(logits).max(axis=1))
    right = logits.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
