"""A small convolutional network with batch normalisation."""

from __future__ import annotations

from typing import Any

from lightexp.core.config import settings_dataclass
from lightexp.models.base import ImageModel, ScalableModel


@settings_dataclass
class SmallCnn(ImageModel, ScalableModel):
    """Two convolutional blocks of 16 and 32 filters, and a dense layer.

    A block is a 3x3 convolution, batch normalisation, ReLU and max-pooling. A feature map of one pixel is not pooled.
    """

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Build the model; see `Model.build`."""
        from lightexp.backend.session import import_keras

        layers = import_keras().layers
        inputs = x = layers.Input(shape, name="image")
        for number, filters in enumerate((16, 32), start=1):
            x = layers.Conv2D(self.scale_units(filters), 3, padding="same", use_bias=False, name=f"conv{number}")(x)
            x = layers.BatchNormalization(momentum=0.9, name=f"norm{number}")(x)
            x = layers.ReLU(name=f"relu{number}")(x)
            if min(x.shape[1:3]) >= 2:
                x = layers.MaxPooling2D(name=f"pool{number}")(x)
        x = layers.Flatten(name="flatten")(x)
        return import_keras().Model(inputs, layers.Dense(classes, name="logits")(x), name="small_cnn")
