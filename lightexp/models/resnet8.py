"""ResNet-8, MLPerf Tiny's residual network for image classification."""

from __future__ import annotations

from typing import Any

from lightexp.core.config import settings_dataclass
from lightexp.models.base import ImageModel, ScalableModel

_L2 = 1e-4


@settings_dataclass
class ResNet8(ImageModel, ScalableModel):
    """Three residual stacks of 16, 32 and 64 filters: 78,666 weights on 32x32x3 and 10 classes.

    MLPerf Tiny v1.0 (Banbury et al. 2021, arXiv 2106.07597), after He et al. 2016. The last
    feature map is averaged over all positions.
    """

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Build the model; see `Model.build`."""
        from lightexp.backend.session import import_keras

        layers = import_keras().layers

        def convolve(x: Any, filters: int, size: int, stride: int, name: str) -> Any:
            settings = {
                "strides": stride,
                "padding": "same",
                "kernel_initializer": "he_normal",
                "kernel_regularizer": import_keras().regularizers.L2(_L2),
            }
            return layers.Conv2D(self.scale_units(filters), size, name=name, **settings)(x)

        def normalize(x: Any, name: str, relu: bool = True) -> Any:
            x = layers.BatchNormalization(name=f"{name}_norm")(x)
            return layers.ReLU(name=f"{name}_relu")(x) if relu else x

        inputs = layers.Input(shape, name="image")
        x = normalize(convolve(inputs, 16, 3, 1, "stem"), "stem")
        for number, filters in enumerate((16, 32, 64), start=1):
            name, stride = f"stack{number}", 1 if number == 1 else 2
            y = normalize(convolve(x, filters, 3, stride, f"{name}_conv1"), f"{name}_1")
            y = normalize(convolve(y, filters, 3, 1, f"{name}_conv2"), f"{name}_2", relu=False)
            if stride > 1:
                x = convolve(x, filters, 1, stride, f"{name}_shortcut")
            x = layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        return import_keras().Model(inputs, layers.Dense(classes, name="logits")(x), name="resnet8")
