"""Measure the calibration error of the shipped file: the gap between its confidence and its accuracy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lightexp.core.class_counts import find_top
from lightexp.core.config import Count, settings_dataclass
from lightexp.core.memmap import MAPPED_BYTES, iterate_chunks, release_pages
from lightexp.core.protocols import Measurement, MeasurementContext, Metric, Task
from lightexp.core.task import Direction
from lightexp.metrics.logits import get_split_suffix, load_logits
from lightexp.tasks.probabilities import compute_log_softmax


@settings_dataclass
class CalibrationError(Measurement):
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599), from 0 to 1; nothing where there are no classes.

    `calibration/ece` on the validation split; `calibration/ece_test` on the test split if it is visible.

    Attributes:
        bins: Number of bins of equal width over the top class's probability. Defaults to 15, as in the paper.
    """

    bins: Count = 15

    def list_metrics(self, task: Task) -> Mapping[str, Direction | None]:
        """Return its metrics, if the task has classes; see `Measurement.list_metrics`."""
        return {"calibration/ece": "min", "calibration/ece_test": "min"} if task.has_classes else {}

    def measure(self, context: MeasurementContext) -> list[Metric]:
        """Measure `calibration/*`."""
        metrics = []
        for name in context.splits:
            logits = context.data.task.compute_class_logits(load_logits(context, name))
            if logits is None:
                return []
            labels = context.data.splits[name].y.reshape(-1)  # of several labels, each counts as an example
            error = compute_calibration_error(logits, labels, self.bins)
            metrics.append(Metric(f"calibration/ece{get_split_suffix(name)}", error, "", "min", name, self.version))
        return metrics


def compute_calibration_error(logits: NDArray[np.float32], labels: NDArray[np.int32], bins: int) -> float:
    """Compute the mean gap between confidence and accuracy over bins of confidence, weighted by examples.

    Args:
        logits: Array `(n, classes)`.
        labels: Array `(n,)`.
        bins: Number of bins; each includes its upper edge and excludes its lower edge.

    Returns:
        Error from 0 to 1.
    """
    gaps = np.zeros(bins)
    for chunk in iterate_chunks(logits, size=MAPPED_BYTES):
        confidence = np.exp(compute_log_softmax(logits[chunk]).max(axis=1))
        is_correct = find_top(logits[chunk]) == labels[chunk]
        bin_index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
        np.add.at(gaps, bin_index, is_correct - confidence)  # one by one, so that chunks do not change the sums
        release_pages(logits[chunk])
    return float(np.abs(gaps).sum() / len(labels))
