"""Knowledge distillation from the soft targets of one or several teachers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from lightexp.core.config import Fraction, Positive, settings_dataclass
from lightexp.core.protocols import Teacher, TrainingObjective


@settings_dataclass
class Distillation(TrainingObjective):
    """`alpha * T^2 * KL(softmax(teacher / T) || softmax(logits / T)) + (1 - alpha) * cross-entropy`.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv 1503.02531); T^2 makes the
    gradient's scale independent of the temperature. The soft targets of several teachers are averaged.

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

    def loss(self, logits: Any, labels: Any, teachers: Mapping[str, Any]) -> Any:
        """Compute the loss of each example; see `TrainingObjective.loss`."""
        from lightexp.backend.losses import compute_cross_entropy, compute_soft_divergence

        divergence = compute_soft_divergence([teachers[name] for name in sorted(teachers)], logits, self.temperature)
        if self.alpha == 1:
            return divergence
        return self.alpha * divergence + (1 - self.alpha) * compute_cross_entropy(logits, labels)
