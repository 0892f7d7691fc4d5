"""Measure how closely the shipped file's predictions follow those of the control."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric, Note, Task
from lightexp.core.task import Direction, SplitName
from lightexp.metrics.logits import get_split_suffix, load_logits

_CLIPPED = "fidelity/clipped"
_MAX_CLIPPED = 0.01


@settings_dataclass
class Fidelity(Measurement):
    """The task's comparison (`Task.compare`) of the file's outputs with the control's.

    For classes, `fidelity/agreement` is the fraction of examples with the same top class; `fidelity/kl` the mean of
    KL(control || file) between the softmaxes, in nats. Both are measured on the validation split;
    `fidelity/agreement_test` and `fidelity/kl_test` on the test split if it is visible.

    Where outputs are numbers and the file's are integers, `fidelity/clipped` is the fraction of the control's outputs
    that lie outside the range of those integers; a note says so if it is more than 1%.
    """

    def list_metrics(self, task: Task) -> dict[str, Direction | None]:
        """Return the task's comparisons on each split; see `Measurement.list_metrics`."""
        comparisons = dict(task.comparisons)
        if not task.has_classes:
            comparisons[_CLIPPED] = "min"
        return {
            f"{name}{get_split_suffix(split)}": direction
            for name, direction in comparisons.items()
            for split in ("val", "test")
        }

    def measure(self, context: MeasurementContext) -> list[Metric | Note]:
        """Measure `fidelity/*`."""
        metrics: list[Metric | Note] = []
        for split in context.splits:
            outputs, control = load_logits(context, split), load_logits(context, split, control=True)
            for metric in context.data.task.compare(outputs, control, context.data):
                metrics.append(replace(metric, name=f"{metric.name}{get_split_suffix(split)}", split=split))
            if not context.data.task.has_classes:
                metrics += self._measure_clipping(context.tflite, control, split)
        return metrics

    def _measure_clipping(self, tflite: Path, control: NDArray[np.float32], split: SplitName) -> list[Metric | Note]:
        """Return the fraction of the control's outputs outside the range of a file's integers, if it has some."""
        from lightexp.backend.flatbuffer import read_graph

        limits = read_graph(tflite).output_range
        if limits is None:
            return []
        low, high = limits
        name = f"{_CLIPPED}{get_split_suffix(split)}"
        clipped = float(np.mean((control < low) | (control > high)))
        results: list[Metric | Note] = [Metric(name, clipped, "", "min", split, self.version)]
        if clipped > _MAX_CLIPPED:
            text = f"{clipped:.1%} of the control's outputs lie outside the file's, {low:.4g} to {high:.4g}"
            results.append(Note(name, text))
        return results
