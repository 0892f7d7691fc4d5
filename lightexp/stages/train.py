"""Training, and the base class of all stages that train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import STATE_FILE, Artifact, Context, Input, Range, Stage
from lightexp.core.training import Training

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightexp.backend.features import FeatureMatcher
    from lightexp.backend.training import WeightConstraint


@settings_dataclass
class TrainingStage(Training, Stage):
    """A stage that trains a Keras model.

    Attributes:
        resumable: Whether `apply` calls `fit` once, so that its training can be stopped early and resumed.
    """

    resumable: ClassVar[bool] = True
    search: ClassVar[Mapping[str, Range]] = {"learning_rate": Range("tag(log, interval(0.0003, 0.01))")}

    def inputs(self) -> dict[str, Input]:
        """Return the objective's teachers; see `Stage.inputs`."""
        return dict(self.objective.teachers)

    def schedule_epochs(self, examples: int) -> int:
        """Return the number of epochs after which no schedule changes anything but the learning rate.

        Args:
            examples: Number of training examples.
        """
        return 0

    def build_untrained(self, context: Context) -> Any:
        """Return the architecture at this point of the pipeline with new weights, determined by the seed."""
        from lightexp.backend.session import reset_graph

        reset_graph(context.seed)
        return context.model.build(context.data.shape, context.data.outputs)

    def fit(self, model: Any, context: Context, masks: WeightConstraint | None = None) -> dict[str, list[float]]:
        """Train a Keras model in place.

        Args:
            model: The model.
            context: Data, seed, teachers, and the epoch to stop or resume at.
            masks: Constraint on the weights, applied after each step. Defaults to None.

        Returns:
            Curves, a value per epoch; see `Trainer.run`.
        """
        from lightexp.backend.training import TeacherSignals, Trainer

        features = self._match_features(model, context)
        signals = TeacherSignals(self._compute_teacher_logits(context), features)
        trainer = Trainer(model, self, context.data, context.seed, signals, masks)
        if context.state:
            trainer.load_state(context.state)
        history = trainer.run(context.progress, context.stop)
        if context.stop:
            trainer.save_state(context.out / STATE_FILE)
        return history

    def _match_features(self, model: Any, context: Context) -> FeatureMatcher | None:
        """Return the matcher of the model's and the teacher's hidden layers, if the objective compares them."""
        if self.objective.matched is None:
            return None
        from lightexp.backend import keras_files
        from lightexp.backend.features import FeatureMatcher

        teacher = keras_files.rebuild_model(context.inputs["teacher"].folder)
        return FeatureMatcher(model, teacher, self.objective, context.seed)

    def _compute_teacher_logits(self, context: Context) -> dict[str, NDArray[Any]]:
        """Return the logits of each teacher on the train split.

        LiteRT computes them once from the teacher's flatbuffer, instead of Keras at each step.
        """
        from lightexp.backend.litert import compute_logits

        examples, logits = context.data.train.x, {}
        for role in self.objective.teachers:
            context.progress.say("asking the teacher")
            teacher = context.inputs[role]
            logits[role] = compute_logits(
                teacher.tflite, examples, context.data, context.threads, foreign=teacher.foreign
            )
        return logits


@settings_dataclass
class Train(TrainingStage):
    """Train the model: from initial weights as the first stage, else from those of the previous stage."""

    accepts = ("none", "keras")
    compresses = False

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Train the model; see `Stage.apply`."""
        from lightexp.backend import keras_files

        model = keras_files.load_model(parent.folder, context.seed) if parent else self.build_untrained(context)
        history = self.fit(model, context)
        keras_files.save_model(model, context.out)
        return {"history": history}
