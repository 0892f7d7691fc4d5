"""Measure the task's metrics of quality of the shipped file: accuracy and loss, where it classifies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightexp.core.config import Count, settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric, Note, Task
from lightexp.core.task import Direction
from lightexp.metrics.logits import load_logits


@settings_dataclass
class Accuracy(Measurement):
    """The task's metrics (`Task.measure`) on each visible split, of the file run by LiteRT.

    Attributes:
        batch: Examples per batch.
    """

    batch: Count = 50

    def list_metrics(self, task: Task) -> Mapping[str, Direction | None]:
        """Return the task's metrics; see `Measurement.list_metrics`."""
        return task.metrics

    def measure(self, context: MeasurementContext) -> Sequence[Metric | Note]:
        """Measure the task's metrics, such as `accuracy/*` and `loss/*`."""
        outputs = {name: load_logits(context, name, batch=self.batch) for name in context.splits}
        return context.data.task.measure(outputs, context.data)
