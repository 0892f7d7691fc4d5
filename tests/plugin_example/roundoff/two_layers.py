"""A model: two dense layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lightexp.core.config import Count
from lightexp.core.protocols import Model


@dataclass(frozen=True)
class TwoLayers(Model):
    """Two dense layers."""

    units: Count = 16

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        from lightexp.backend.session import import_keras

        layers = import_keras().layers
        body = [layers.Flatten(), layers.Dense(self.units, "relu"), layers.Dense(classes)]
        return import_keras().Sequential([layers.Input(shape), *body])

    def scaled(self, width: float) -> TwoLayers:
        return replace(self, units=max(1, round(self.units * width)))
