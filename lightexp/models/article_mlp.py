"""The founding article's network."""

from __future__ import annotations

from typing import Any

from lightexp.core.config import settings_dataclass
from lightexp.models.base import ScalableModel


@settings_dataclass
class ArticleMlp(ScalableModel):
    """Flatten, Dense(128, relu), Dropout, Dense(classes), from inputs of any shape.

    Attributes:
        dropout: Share of the hidden activations dropped in training. Defaults to 0.2.
    """

    dropout: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1. Received: {self.dropout}.")

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Builds it; see `Model.build`."""
        from lightexp.backend.session import import_keras

        layers = import_keras().layers
        inputs = layers.Input(shape, name="image")
        x = layers.Flatten(name="flatten")(inputs)
        x = layers.Dense(self.scale_units(128), activation="relu", name="dense1")(x)
        x = layers.Dropout(self.dropout, name="dropout")(x)
        return import_keras().Model(inputs, layers.Dense(classes, name="logits")(x), name="article_mlp")
