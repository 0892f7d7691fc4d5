"""Knowledge distillation from the soft targets of one or several teachers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

from lightexp.core.config import Fraction, Positive, settings_dataclass
from lightexp.core.protocols import Task, Teacher, TrainingObjective


@settings_dataclass
class Distillation(TrainingObjective):
    """`alpha * T^2 * KL(softmax(teacher / T) || softmax(logits / T)) + (1 - alpha) * cross-entropy`.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv 1503.02531); T^2 makes the
    gradient's scale independent of the temperature. The soft targets of several teachers are averaged. Tasks without
    a softmax state their own divergence and loss (`Task.compute_soft_loss`, `Task.compute_loss`).

    Attributes:
        teacher: `control` (the pipeline's uncompressed model), the path of a float `.tflite`, or a list of overrides
            that describe another model and pipeline, trained on this run's data and seed. Defaults to `control`.
        others: More teachers by name. Defaults to none.
        temperature: T. Defaults to 4.
        alpha: Weight of the teachers against the labels; 1 uses the teachers only. Defaults to 0.9.

    Example:
        >>> Distillation(temperature=2.0, others={"large": "large.tflite"}).teachers
        {'teacher': 'control', 'large': 'large.tflite'}
    """

    follows_task: ClassVar[bool] = True
    teacher: Teacher = field(default="control", metadata={"keyed": False})  # the teacher's own store key is used
    others: dict[str, Teacher] = field(default_factory=dict, metadata={"keyed": False})
    temperature: Positive = 4.0
    alpha: Fraction = 0.9

    def __post_init__(self) -> None:
        if reserved := {"teacher", "parent"} & set(self.others):
            raise ValueError(f"others: a further teacher cannot be called '{reserved.pop()}'. Choose another name.")

    @property
    def teachers(self) -> dict[str, Teacher]:
        """All teachers by name; the first is `teacher`."""
        return {"teacher": self.teacher, **self.others}

    def compute_loss(self, task: Task, outputs: Any, targets: Any, teachers: Mapping[str, Any]) -> Any:
        """Compute the loss of each example; see `TrainingObjective.compute_loss`."""
        soft_loss = task.compute_soft_loss([teachers[name] for name in sorted(teachers)], outputs, self.temperature)
        if self.alpha == 1:
            return soft_loss
        return self.alpha * soft_loss + (1 - self.alpha) * task.compute_loss(outputs, targets)
