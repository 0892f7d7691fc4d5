"""Separable convolutions as the two convolutions that they compute, which every stage knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightexp.backend.session import import_keras

_DEPTHWISE = (
    "strides",
    "padding",
    "data_format",
    "dilation_rate",
    "depth_multiplier",
    "kernel_size",
    "depthwise_regularizer",
)
_POINTWISE = ("filters", "data_format", "activation", "use_bias", "bias_regularizer")


def is_separable(layer: Any) -> bool:
    """Return whether a layer is a separable convolution."""
    return type(layer).__name__ in ("SeparableConv1D", "SeparableConv2D")


class SplitConvolution:
    """The depthwise and the pointwise convolution that compute what a separable one does.

    Attributes:
        depthwise: The depthwise convolution, `NAME_depthwise`.
        pointwise: The convolution with a window of one position, `NAME`.
    """

    def __init__(self, layer: Any, name: str) -> None:
        """Create both layers with the settings of a separable convolution."""
        kl, config, rank = import_keras().layers, layer.get_config(), type(layer).__name__[-2:]
        depthwise, pointwise = ({key: config[key] for key in keys} for keys in (_DEPTHWISE, _POINTWISE))
        self.depthwise = getattr(kl, f"DepthwiseConv{rank}")(**depthwise, use_bias=False, name=f"{name}_depthwise")
        self.pointwise = getattr(kl, f"Conv{rank}")(
            kernel_size=1, kernel_regularizer=config["pointwise_regularizer"], **pointwise, name=name
        )

    def __call__(self, inputs: Any) -> Any:
        """Return the output of both."""
        return self.pointwise(self.depthwise(inputs))

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the weights of both from those of the separable convolution."""
        self.depthwise.set_weights(weights[:1])
        self.pointwise.set_weights(weights[1:])
