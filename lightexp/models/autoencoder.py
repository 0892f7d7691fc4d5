"""A dense autoencoder."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

from pydantic import Field

from lightexp.core.config import Count, settings_dataclass
from lightexp.models.base import ScalableModel


@settings_dataclass
class Autoencoder(ScalableModel):
    """Dense layers down to a bottleneck and up again, each with batch normalisation and ReLU, for inputs of any shape.

    The defaults are those of MLPerf Tiny's anomaly detection (Banbury et al. 2021, arXiv 2106.07597), with 264,192
    kernel weights for 640 inputs and outputs: 640-128-128-128-128-8-128-128-128-128-640.

    Attributes:
        hidden: Units of the layers in front of the bottleneck; those behind it are the same in reverse. Defaults to
            four of 128.
        bottleneck: Units of the layer in the middle. Defaults to 8.
    """

    hidden: Annotated[list[Count], Field(min_length=1)] = field(default_factory=lambda: [128, 128, 128, 128])
    bottleneck: Count = 8

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Build the model; see `Model.build`."""
        from lightexp.backend.session import import_keras

        layers = import_keras().layers
        x = inputs = layers.Input(shape, name="examples")
        if len(shape) > 1:
            x = layers.Flatten(name="flatten")(x)
        for number, units in enumerate((*self.hidden, self.bottleneck, *reversed(self.hidden)), start=1):
            x = layers.Dense(self.scale_units(units), name=f"dense{number}")(x)
            x = layers.BatchNormalization(name=f"norm{number}")(x)
            x = layers.ReLU(name=f"relu{number}")(x)
        return import_keras().Model(inputs, layers.Dense(classes, name="outputs")(x), name="autoencoder")
