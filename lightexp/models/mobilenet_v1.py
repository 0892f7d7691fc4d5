"""MobileNetV1, a depthwise-separable network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightexp.core.config import Positive, settings_dataclass
from lightexp.core.protocols import Model
from lightexp.models.base import ImageModel

BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Filters, at an `alpha` of 1, and stride of each block."""
_MIN_STRIDED_SIZE = 4  # smaller maps are not halved


@settings_dataclass
class MobileNetV1(ImageModel):
    """A strided convolution and 13 depthwise-separable blocks (Howard et al. 2017, arXiv 1704.04861).

    On 96x96x3, 2 classes and alpha 0.25 it is MLPerf Tiny's network for visual wake words, of 221,794 weights. On
    feature maps with height or width under 4, a stride of 2 becomes 1.

    Attributes:
        alpha: Factor on the number of filters of every layer. Defaults to 0.25.
    """

    alpha: Positive = 0.25

    def scaled(self, width: float) -> Model:
        """Return the same architecture with alpha multiplied by `width`."""
        return replace(self, alpha=self.alpha * width)

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Build the model; see `Model.build`."""
        from lightexp.backend.session import import_keras

        layers = import_keras().layers

        def scale_filters(count: int) -> int:
            return max(1, int(count * self.alpha))

        def limit_stride(x: Any, stride: int) -> int:
            return stride if min(x.shape[1:3]) >= _MIN_STRIDED_SIZE else 1

        def normalize(x: Any, name: str) -> Any:
            x = layers.BatchNormalization(name=f"{name}_norm")(x)
            return layers.ReLU(6.0, name=f"{name}_relu")(x)

        settings = {"padding": "same"}
        inputs = layers.Input(shape, name="image")
        x = layers.Conv2D(scale_filters(32), 3, strides=limit_stride(inputs, 2), name="stem", **settings)(inputs)
        x = normalize(x, "stem")
        for number, (filters, stride) in enumerate(BLOCKS, start=1):
            name = f"block{number}"
            x = layers.DepthwiseConv2D(3, strides=limit_stride(x, stride), name=f"{name}_depth", **settings)(x)
            x = normalize(x, f"{name}_depth")
            x = normalize(
                layers.Conv2D(scale_filters(filters), 1, name=f"{name}_point", **settings)(x), f"{name}_point"
            )
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        return import_keras().Model(inputs, layers.Dense(classes, name="logits")(x), name="mobilenet_v1")
