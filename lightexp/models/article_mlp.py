"""A small multilayer perceptron with dropout."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from lightexp.core.config import settings_dataclass
from lightexp.models.base import ScalableModel

_Rate = Annotated[float, Field(ge=0, lt=1)]


@settings_dataclass
class ArticleMlp(ScalableModel):
    """A multilayer perceptron for inputs of any shape: Flatten, Dense(128, relu), Dropout, Dense(classes).

    Attributes:
        dropout: Fraction of the hidden activations dropped in training. Defaults to 0.2.
    """

    dropout: _Rate = 0.2

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Build the model; see `Model.build`."""
        from lightexp.backend.session import import_keras

        layers = import_keras().layers
        inputs = layers.Input(shape, name="image")
        x = layers.Flatten(name="flatten")(inputs)
        x = layers.Dense(self.scale_units(128), activation="relu", name="dense1")(x)
        x = layers.Dropout(self.dropout, name="dropout")(x)
        return import_keras().Model(inputs, layers.Dense(classes, name="logits")(x), name="article_mlp")
