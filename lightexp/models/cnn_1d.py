"""A one-dimensional convolutional network for series."""

from __future__ import annotations

from typing import Any

from lightexp.core.config import settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.models.base import ScalableModel


@settings_dataclass
class Cnn1d(ScalableModel):
    """Three strided convolutions of 25 filters and a dense layer: 5,210 weights on MNIST-1D.

    The convolutional baseline of Greydanus and Kobak 2020 (arXiv 2011.14439).
    """

    @property
    def input_rank(self) -> int:
        """2: steps and channels; see `Model.input_rank`."""
        return 2

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        """Check that the data are series; see `Model.check`.

        Raises:
            BadInput: If they are not.
        """
        if len(shape) != 2:
            raise BadInput(
                f"Cnn1d needs series of shape (length, channels). Received: {shape}. "
                "Use dataset=mnist1d, or model=small_cnn for images."
            )

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Build the model; see `Model.build`."""
        from lightexp.backend.session import import_keras

        layers = import_keras().layers
        x = inputs = layers.Input(shape, name="series")
        for number, size in enumerate((5, 3, 3), start=1):
            x = layers.Conv1D(
                self.scale_units(25), size, strides=2, padding="same", activation="relu", name=f"conv{number}"
            )(x)
        x = layers.Flatten(name="flatten")(x)
        return import_keras().Model(inputs, layers.Dense(classes, name="logits")(x), name="cnn_1d")
