"""What shipped architectures share: one factor for the width of every hidden layer, and a need for images."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

from lightexp.core.config import Positive, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Model


@settings_dataclass
class ScalableModel(Model):
    """An architecture whose hidden layers all widen by one factor.

    Attributes:
        width: Factor on the number of filters and neurons of every hidden layer. Defaults to 1.
    """

    width: Positive = 1.0

    def scaled(self, width: float) -> Self:
        """The same architecture at `width` of this one's width."""
        return replace(self, width=self.width * width)

    def scale_units(self, count: int) -> int:
        """`count` filters or neurons, scaled and rounded, at least one."""
        return max(1, round(count * self.width))


class ImageModel(Model):
    """An architecture for images alone.

    Attributes:
        least: The smallest height and width.
    """

    min_size: ClassVar[int] = 1

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        """Refuses data that have no height, width and channels, or too few pixels."""
        if len(shape) != 3 or min(shape[:2]) < self.min_size:
            size = f" and {self.min_size}x{self.min_size} pixels or more" if self.min_size > 1 else ""
            raise BadInput(
                f"{type(self).__name__} needs images of shape (height, width, channels){size}. Received: {shape}. "
                "Use model=article_mlp, or reshape the data."
            )
