"""What the stages share that leave a Keras model with other layers than it had."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightexp.core.config import settings_dataclass
from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Model
from lightexp.core.sensitivity import SensitivityTable
from lightexp.stages.train import TrainingStage


@settings_dataclass
class ArchitectureStage(TrainingStage):
    """A stage that takes layers of a trained model apart, and trains what it leaves."""

    @abstractmethod
    def preview(self, model: Any, table: SensitivityTable | None = None) -> tuple[Any, list[tuple[str, str]]]:
        """What will become of an untrained model, as far as that does not depend on weights.

        Args:
            model: The model before it.
            table: That of sensitivity, where the stage takes from one that is there already.

        Returns:
            The model after it, with all the layers that it may have and as wide as they may be where that is not known
            yet; and of each layer, what happens to it, as (name, words).

        Raises:
            BadInput: If the stage cannot work with the model.
        """

    @property
    def is_static(self) -> bool:
        """Whether what it leaves of a model follows from the architecture alone."""
        return True

    def coupled_layers(self, model: Any) -> list[tuple[str, ...]]:
        """Names of layers that have to be given one value."""
        return []

    def replaces(self, model: Model) -> Model:
        """The architecture with other layers."""
        return TransformedModel(model, self)


@dataclass(frozen=True)
class TransformedModel(Model):
    """An architecture after surgery; where that depends on weights, as large as it may be.

    Attributes:
        model: The architecture before.
        by: What has changed it.
    """

    model: Model
    by: ArchitectureStage

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Builds it; see `Model.build`."""
        return self.by.preview(self.model.build(shape, classes))[0]

    def scaled(self, width: float) -> Model:
        """Surgery on the scaled architecture; see `Model.scaled`."""
        return TransformedModel(self.model.scaled(width), self.by)

    @property
    def trainable(self) -> bool:
        """As before."""
        return self.model.trainable

    def select_view(self, data: Data) -> Data:
        """As before."""
        return self.model.select_view(data)

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        """As before; see `Model.check`."""
        self.model.check(shape, classes)


def undetermined_stage(model: Model) -> ArchitectureStage | None:
    """The stage that has to run before an architecture is known; None where it is known already."""
    while isinstance(model, TransformedModel):
        if not model.by.is_static:
            return model.by
        model = model.model
    return None


def require_finite(model: Any) -> None:
    """Refuses a model whose weights cannot be ranked.

    Raises:
        BadInput: If a weight is NaN or infinite; names the layer.
    """
    for layer in model.layers:
        if not all(np.isfinite(w).all() for w in layer.get_weights()):
            raise BadInput(f"layer '{layer.name}' has weights that are NaN or infinite. Train the model again.")
