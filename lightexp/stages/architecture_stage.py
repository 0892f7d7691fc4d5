"""Base class of stages that change a trained model's layers, and the model that results."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from lightexp.core.config import settings_dataclass
from lightexp.core.data import Data
from lightexp.core.protocols import Model
from lightexp.core.sensitivity import SensitivityTable
from lightexp.stages.train import TrainingStage


@settings_dataclass
class ArchitectureStage(TrainingStage):
    """A stage that changes the layers of a trained model, and trains the result."""

    @abstractmethod
    def preview(self, model: Any, table: SensitivityTable | None = None) -> tuple[Any, list[tuple[str, str]]]:
        """Return the effect on an untrained model, as far as it does not depend on weights.

        Args:
            model: The Keras model before the stage.
            table: Sensitivity table, if the stage takes settings from one that exists. Defaults to None.

        Returns:
            The model after the stage, with the most layers and channels it may have if that is not known yet; and
            (name, description) of what happens to each layer.

        Raises:
            BadInput: If the stage cannot be applied to the model.
        """

    @property
    def is_static(self) -> bool:
        """Whether the resulting architecture is determined by the previous one, without weights."""
        return True

    def coupled_layers(self, model: Any) -> list[tuple[str, ...]]:
        """Return groups of names of layers that must have the same value in `layers`."""
        return []

    def replaces(self, model: Model) -> Model:
        """Return the changed architecture; see `Stage.replaces`."""
        return TransformedModel(model, self)


@dataclass(frozen=True)
class TransformedModel(Model):
    """The architecture after a stage that changed it; the largest possible one if it depends on weights.

    Attributes:
        model: The architecture before the stage.
        stage: The stage.
    """

    model: Model
    stage: ArchitectureStage

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Build the changed model; see `Model.build`."""
        return self.stage.preview(self.model.build(shape, classes))[0]

    def scaled(self, width: float) -> Model:
        """Return the scaled architecture, changed in the same way; see `Model.scaled`."""
        return TransformedModel(self.model.scaled(width), self.stage)

    @property
    def trainable(self) -> bool:
        """Whether the architecture before the stage has Keras layers."""
        return self.model.trainable

    def select_view(self, data: Data) -> Data:
        """Return the view of the data that the architecture before the stage has; see `Model.select_view`."""
        return self.model.select_view(data)

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        """Check the architecture before the stage; see `Model.check`."""
        self.model.check(shape, classes)


def undetermined_stage(model: Model) -> ArchitectureStage | None:
    """Return the stage that must run before an architecture is known; None if it is known already."""
    while isinstance(model, TransformedModel):
        if not model.stage.is_static:
            return model.stage
        model = model.model
    return None
