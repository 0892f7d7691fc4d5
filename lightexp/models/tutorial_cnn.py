"""The convolutional network of tfmot's tutorials."""

from __future__ import annotations

from typing import Any, ClassVar

from lightexp.core.config import settings_dataclass
from lightexp.models.base import ImageModel, ScalableModel


@settings_dataclass
class TutorialCnn(ImageModel, ScalableModel):
    """A 3x3 convolution of 12 filters, max-pooling and a dense layer.

    TensorFlow Model Optimization, "Pruning in Keras example". 20,410 weights on 28x28x1 and 10 classes. The smallest
    images are 4x4.
    """

    min_size: ClassVar[int] = 4

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Build the model; see `Model.build`."""
        from lightexp.backend.session import import_keras

        layers = import_keras().layers
        inputs = layers.Input(shape, name="image")
        x = layers.Conv2D(self.scale_units(12), 3, activation="relu", name="conv")(inputs)
        x = layers.MaxPooling2D(name="pool")(x)
        x = layers.Flatten(name="flatten")(x)
        return import_keras().Model(inputs, layers.Dense(classes, name="logits")(x), name="tutorial_cnn")
