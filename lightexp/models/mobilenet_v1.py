"""MobileNetV1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightexp.core.config import Positive, settings_dataclass
from lightexp.core.protocols import Model
from lightexp.models.base import ImageModel

_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
_LEAST = 4  # a map this small is not halved again


@settings_dataclass
class MobileNetV1(ImageModel):
    """A strided convolution and 13 depthwise-separable blocks (Howard et al. 2017, arXiv 1704.04861).

    On 96x96x3, 2 classes and alpha 0.25 it is MLPerf Tiny's network for visual wake words, of 221,794 weights. So that
    small images keep a map to look at, a stride of 2 is left out where height or width is under 4.

    Attributes:
        alpha: Factor on every layer's filters. Defaults to 0.25.
    """

    alpha: Positive = 0.25

    def scaled(self, width: float) -> Model:
        """The same architecture at `width` of this one's alpha."""
        return replace(self, alpha=self.alpha * width)

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Builds it; see `Model.build`."""
        from lightexp.backend.session import import_keras

        layers = import_keras().layers

        def filters(count: int) -> int:
            return max(1, int(count * self.alpha))

        def stride(x: Any, wanted: int) -> int:
            return wanted if min(x.shape[1:3]) >= _LEAST else 1

        def rectified(x: Any, name: str) -> Any:
            x = layers.BatchNormalization(name=f"{name}_norm")(x)
            return layers.ReLU(6.0, name=f"{name}_relu")(x)

        plain = {"padding": "same"}
        inputs = layers.Input(shape, name="image")
        x = layers.Conv2D(filters(32), 3, strides=stride(inputs, 2), name="stem", **plain)(inputs)
        x = rectified(x, "stem")
        for number, (count, wanted) in enumerate(_BLOCKS, start=1):
            name = f"block{number}"
            x = layers.DepthwiseConv2D(3, strides=stride(x, wanted), name=f"{name}_depth", **plain)(x)
            x = rectified(x, f"{name}_depth")
            x = rectified(layers.Conv2D(filters(count), 1, name=f"{name}_point", **plain)(x), f"{name}_point")
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        return import_keras().Model(inputs, layers.Dense(classes, name="logits")(x), name="mobilenet_v1")
