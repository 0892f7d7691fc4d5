"""LeNet-5 in the version of the compression literature."""

from __future__ import annotations

from typing import Any

from lightexp.core.config import settings_dataclass
from lightexp.models.base import ImageModel, ScalableModel


@settings_dataclass
class LeNet5(ImageModel, ScalableModel):
    """Two 5x5 convolutions of 20 and 50 filters, each max-pooled, and a dense layer of 500 units.

    This is Caffe's LeNet-5. On 28x28x1 images and 10 classes it has the literature's 431,080 weights. On feature maps
    too small for a 5x5 kernel the convolution is padded, and a map of one pixel is not pooled.
    """

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Build the model; see `Model.build`."""
        from lightexp.backend.session import import_keras

        layers = import_keras().layers
        inputs = x = layers.Input(shape, name="image")
        for number, filters in enumerate((20, 50), start=1):
            padding = "valid" if min(x.shape[1:3]) >= 5 else "same"
            x = layers.Conv2D(self.scale_units(filters), 5, padding=padding, activation="relu", name=f"conv{number}")(x)
            if min(x.shape[1:3]) >= 2:
                x = layers.MaxPooling2D(name=f"pool{number}")(x)
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dense(self.scale_units(500), activation="relu", name="dense1")(x)
        return import_keras().Model(inputs, layers.Dense(classes, name="logits")(x), name="lenet5")
