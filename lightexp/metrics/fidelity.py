"""Measure how closely the shipped file's predictions follow those of the control."""

from __future__ import annotations

from dataclasses import replace

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric, Task
from lightexp.core.task import Direction
from lightexp.metrics.logits import get_split_suffix, load_logits


@settings_dataclass
class Fidelity(Measurement):
    """The task's comparison (`Task.compare`) of the file's outputs with the control's.

    For classes, `fidelity/agreement` is the fraction of examples with the same top class; `fidelity/kl` the mean of
    KL(control || file) between the softmaxes, in nats. Both are measured on the validation split;
    `fidelity/agreement_test` and `fidelity/kl_test` on the test split if it is visible.
    """

    def list_metrics(self, task: Task) -> dict[str, Direction | None]:
        """Return the task's comparisons on each split; see `Measurement.list_metrics`."""
        return {
            f"{name}{get_split_suffix(split)}": direction
            for name, direction in task.comparisons.items()
            for split in ("val", "test")
        }

    def measure(self, context: MeasurementContext) -> list[Metric]:
        """Measure `fidelity/*`."""
        metrics = []
        for split in context.splits:
            outputs, control = load_logits(context, split), load_logits(context, split, control=True)
            for metric in context.data.task.compare(outputs, control, context.data):
                metrics.append(replace(metric, name=f"{metric.name}{get_split_suffix(split)}", split=split))
        return metrics
