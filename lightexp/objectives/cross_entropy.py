"""The task's loss with the targets, the default training objective: cross-entropy for classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import Task, TrainingObjective


@settings_dataclass
class CrossEntropy(TrainingObjective):
    """The task's own loss: cross-entropy between outputs and targets, or the error of a task without classes."""

    follows_task: ClassVar[bool] = True

    def compute_loss(self, task: Task, outputs: Any, targets: Any, teachers: Mapping[str, Any]) -> Any:
        """Compute the loss of each example; see `TrainingObjective.compute_loss`."""
        return task.compute_loss(outputs, targets)
