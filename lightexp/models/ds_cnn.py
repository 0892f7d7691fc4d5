"""DS-CNN, MLPerf Tiny's depthwise-separable network for keyword spotting."""

from __future__ import annotations

from typing import Any

from lightexp.core.config import settings_dataclass
from lightexp.models.base import ImageModel, ScalableModel

_L2 = 1e-4


@settings_dataclass
class DsCnn(ImageModel, ScalableModel):
    """A 10x4 convolution and four depthwise-separable blocks of 64 filters.

    For spectrograms of 49x10x1 and 12 classes. DS-CNN (Zhang et al. 2017, arXiv 1711.07128) in the version of MLPerf
    Tiny (Banbury et al. 2021, arXiv 2106.07597). The last feature map is averaged over all positions.
    """

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Build the model; see `Model.build`."""
        from lightexp.backend.session import import_keras

        layers, regularizer = import_keras().layers, import_keras().regularizers.L2(_L2)

        def normalize(x: Any, name: str) -> Any:
            x = layers.BatchNormalization(name=f"{name}_norm")(x)
            return layers.ReLU(name=f"{name}_relu")(x)

        filters = self.scale_units(64)
        inputs = layers.Input(shape, name="spectrogram")
        settings = {"padding": "same", "kernel_regularizer": regularizer}
        x = layers.Conv2D(filters, (10, 4), strides=2, name="stem", **settings)(inputs)
        x = layers.Dropout(0.2, name="stem_dropout")(normalize(x, "stem"))
        for number in range(1, 5):
            name = f"block{number}"
            depthwise = layers.DepthwiseConv2D(
                3, padding="same", depthwise_regularizer=regularizer, name=f"{name}_depth"
            )
            x = normalize(depthwise(x), f"{name}_depth")
            x = normalize(layers.Conv2D(filters, 1, name=f"{name}_point", **settings)(x), f"{name}_point")
        x = layers.Dropout(0.4, name="dropout")(x)
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        return import_keras().Model(inputs, layers.Dense(classes, name="logits")(x), name="ds_cnn")
