"""What the shipped architectures share: one factor for the width of every hidden layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from lightexp.core.config import Positive
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Model


@dataclass(frozen=True)
class Widths(Model):
    """An architecture whose hidden layers all widen by one factor.

    Attributes:
        width: Factor on the number of filters and neurons of every hidden layer. Defaults to 1.
    """

    width: Positive = 1.0

    def scaled(self, width: float) -> Self:
        """The same architecture at `width` of this one's width."""
        return replace(self, width=self.width * width)

    def units(self, count: int) -> int:
        """`count` filters or neurons, scaled and rounded, at least one."""
        return max(1, round(count * self.width))


def needs_images(model: Model, shape: tuple[int, ...], least: int = 1) -> None:
    """Refuses data that has no height, width and channels.

    Args:
        model: Who refuses.
        shape: Of one example.
        least: The smallest height and width.

    Raises:
        BadInput: If `shape` is not of rank 3, or too small.
    """
    if len(shape) != 3 or min(shape[:2]) < least:
        size = f" and {least}x{least} pixels or more" if least > 1 else ""
        raise BadInput(
            f"{type(model).__name__} needs images of shape (height, width, channels){size}. Received: {shape}. "
            "Use model=article_mlp, or reshape the data."
        )
