"""LeNet-300-100, a multilayer perceptron."""

from __future__ import annotations

from typing import Any

from lightexp.core.config import settings_dataclass
from lightexp.models.base import ScalableModel


@settings_dataclass
class LeNet300100(ScalableModel):
    """Two hidden dense layers of 300 and 100 units (LeCun et al. 1998), for inputs of any shape."""

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Build the model; see `Model.build`."""
        from lightexp.backend.session import import_keras

        layers = import_keras().layers
        inputs = layers.Input(shape, name="image")
        x = layers.Flatten(name="flatten")(inputs)
        x = layers.Dense(self.scale_units(300), activation="relu", name="dense1")(x)
        x = layers.Dense(self.scale_units(100), activation="relu", name="dense2")(x)
        return import_keras().Model(inputs, layers.Dense(classes, name="logits")(x), name="lenet_300_100")
