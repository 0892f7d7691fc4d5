"""What the stages share that leave a Keras model with other layers than it had."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import numpy as np

from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Model
from lightexp.stages.train import TrainingStage

T = TypeVar("T")


@dataclass(frozen=True)
class Surgery(TrainingStage):
    """A stage that takes layers of a trained model apart, and trains what it leaves."""

    @abstractmethod
    def foreseen(self, model: Any) -> tuple[Any, list[tuple[str, str]]]:
        """What will become of an untrained model, as far as that does not depend on weights.

        Returns:
            The model after it; and of each layer, what happens to it, as (name, words).

        Raises:
            BadInput: If the stage cannot work with the model.
        """

    def replaces(self, model: Model) -> Model:
        """The architecture with other layers."""
        return Operated(model, self)


@dataclass(frozen=True)
class Operated(Model):
    """An architecture after surgery; where that depends on weights, as on untrained ones.

    Attributes:
        model: The architecture before.
        by: What has changed it.
    """

    model: Model
    by: Surgery

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Builds it; see `Model.build`."""
        return self.by.foreseen(self.model.build(shape, classes))[0]

    def scaled(self, width: float) -> Model:
        """Surgery on the scaled architecture; see `Model.scaled`."""
        return Operated(self.model.scaled(width), self.by)

    @property
    def trainable(self) -> bool:
        """As before."""
        return self.model.trainable

    def sees(self, data: Data) -> Data:
        """As before."""
        return self.model.sees(data)

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        """As before; see `Model.check`."""
        self.model.check(shape, classes)


def single(layers: dict[str, T], names: Sequence[str], what: str) -> dict[str, T]:
    """What single layers are given, by name.

    Args:
        layers: By pattern of their names.
        names: Of the layers that can be given it.
        what: It, in words.

    Raises:
        BadInput: If a pattern matches none of `names`, or two give one layer different things.
    """
    for pattern in layers:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise BadInput(f"layers: '{pattern}' matches no layer that is {what}. These are: {', '.join(names)}.")
    found: dict[str, T] = {}
    for name in names:
        given = {pattern: value for pattern, value in layers.items() if fnmatchcase(name, pattern)}
        if len(set(given.values())) > 1:
            raise BadInput(f"layers: {name} is given several values: {given}. Give it one.")
        found |= dict.fromkeys([name] if given else [], next(iter(given.values()), None))  # type: ignore[arg-type]
    return found


def finite(model: Any) -> None:
    """Refuses a model whose weights cannot be ranked.

    Raises:
        BadInput: If a weight is NaN or infinite; names the layer.
    """
    for layer in model.layers:
        if not all(np.isfinite(w).all() for w in layer.get_weights()):
            raise BadInput(f"layer '{layer.name}' has weights that are NaN or infinite. Train the model again.")
