"""Distillation: replace the model by a student that is trained against a teacher."""

from __future__ import annotations

from typing import Any

from lightexp.core.config import Positive, settings_dataclass
from lightexp.core.protocols import Artifact, Context, Model, Range
from lightexp.stages.train import TrainingStage


@settings_dataclass
class Distill(TrainingStage):
    """Replace the model by an untrained student, and train the student against the objective's teacher.

    Hinton, Vinyals and Dean 2015 (arXiv 1503.02531).

    Attributes:
        student: Architecture of the student. Defaults to None: the pipeline's model, scaled by `width`.
        width: See `student`. Defaults to 1/3.
    """

    accepts = ("keras", "tflite", "quantized")
    search = {**TrainingStage.search, "width": Range("interval(0.2, 0.7)", strongest=0.2)}
    student: Model | None = None
    width: Positive = 1 / 3

    def __post_init__(self) -> None:
        if not self.objective.teachers:
            raise ValueError(
                "distill needs an objective with a teacher. "
                f"Received: objective={type(self.objective).__name__}. "
                "Set objective@pipeline.stages.distill.objective=distill."
            )

    @property
    def needs_parent(self) -> bool:
        """False: the student is untrained, and the teacher is a separate input."""
        return False

    def replaces(self, model: Model) -> Model:
        """Return the student's architecture; see `Stage.replaces`."""
        return self.student or model.scaled(self.width)

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Train the student; see `Stage.apply`."""
        from lightexp.backend import keras_files

        student = self.build_untrained(context)
        history = self.fit(student, context)
        keras_files.save_model(student, context.out)
        return {"history": history}
