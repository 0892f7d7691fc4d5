"""Training, and what every stage that trains shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import STATE_FILE, Artifact, Context, Input, Range, Stage
from lightexp.core.training import Training

if TYPE_CHECKING:
    from lightexp.backend.training import WeightConstraint


@settings_dataclass
class TrainingStage(Training, Stage):
    """A stage that trains a Keras model.

    Attributes:
        once: Whether `apply` calls `fit` once, so that its training can be cut short and gone on with.
    """

    once: ClassVar[bool] = True
    search: ClassVar[Mapping[str, Range]] = {"learning_rate": Range("tag(log, interval(0.0003, 0.01))")}

    def inputs(self) -> dict[str, Input]:
        """The objective's teachers."""
        return dict(self.objective.teachers)

    def schedule_epochs(self, examples: int) -> int:
        """The epochs after which no schedule changes anything but the learning rate."""
        return 0

    def untrained(self, context: Context) -> Any:
        """The architecture at this point of the pipeline with new weights; the same whenever the seed is."""
        from lightexp.backend.session import reset_graph

        reset_graph(context.seed)
        return context.model.build(context.data.shape, context.data.classes)

    def fit(self, model: Any, context: Context, masks: WeightConstraint | None = None) -> dict[str, list[float]]:
        """Trains `model` in place and returns the curves; see `Trainer.run`."""
        from lightexp.backend.litert import compute_logits
        from lightexp.backend.training import TeacherSignals, Trainer

        features = None
        if self.objective.matched is not None:
            from lightexp.backend import keras_files
            from lightexp.backend.features import FeatureMatcher

            teacher = keras_files.rebuild_model(context.inputs["teacher"].folder)
            features = FeatureMatcher(model, teacher, self.objective, context.seed)
        # Read off the flatbuffer once, not computed again at every step: any teacher that LiteRT runs will do.
        train, teachers = context.data.train.x, {}
        for role in self.objective.teachers:
            context.progress.say("asking the teacher")
            teacher = context.inputs[role]
            teachers[role] = compute_logits(
                teacher.tflite, train, context.data, context.threads, foreign=teacher.foreign
            )
        trainer = Trainer(model, self, context.data, context.seed, TeacherSignals(teachers, features), masks)
        if context.state:
            trainer.load_state(context.state)
        history = trainer.run(context.progress, context.stop)
        if context.stop:
            trainer.save_state(context.out / STATE_FILE)
        return history


@settings_dataclass
class Train(TrainingStage):
    """Trains the model: from its initial weights where it stands first, else from those that come before."""

    accepts = ("none", "keras")
    compresses = False

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Trains; see `Stage.apply`."""
        from lightexp.backend import keras_files

        model = keras_files.load_model(parent.folder, context.seed) if parent else self.untrained(context)
        history = self.fit(model, context)
        keras_files.save_model(model, context.out)
        return {"history": history}
