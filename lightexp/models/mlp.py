"""A multilayer perceptron with any number of hidden layers."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from lightexp.core.config import Count, settings_dataclass
from lightexp.models.base import ScalableModel


@settings_dataclass
class Mlp(ScalableModel):
    """Dense layers with ReLU between an input of any shape and the outputs.

    Attributes:
        hidden: Units of each hidden layer at width 1, from the input on; empty for a linear model. Defaults to 64, 32.

    Example:
        >>> Mlp(hidden=[16]).scaled(0.5).width
        0.5
    """

    hidden: list[Count] = field(default_factory=lambda: [64, 32])

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Build the model; see `Model.build`."""
        from lightexp.backend.session import import_keras

        layers = import_keras().layers
        inputs = layers.Input(shape, name="features")
        x = layers.Flatten(name="flatten")(inputs)
        for number, units in enumerate(self.hidden, start=1):
            x = layers.Dense(self.scale_units(units), activation="relu", name=f"dense{number}")(x)
        return import_keras().Model(inputs, layers.Dense(classes, name="logits")(x), name="mlp")
