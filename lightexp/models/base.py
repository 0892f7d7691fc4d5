"""Base classes of models: scalable in width, and models of images only."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

from lightexp.core.config import Positive, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Model


@settings_dataclass
class ScalableModel(Model):
    """A model whose hidden layers are scaled by one width factor.

    Attributes:
        width: Factor on the number of filters and neurons of every hidden layer. Defaults to 1.
    """

    width: Positive = 1.0

    def scaled(self, width: float) -> Self:
        """Return the same architecture with its width multiplied by `width`.

        Args:
            width: Factor.
        """
        return replace(self, width=self.width * width)

    def scale_units(self, count: int) -> int:
        """Return a number of filters or neurons, scaled and rounded, at least one.

        Args:
            count: The number at width 1.
        """
        return max(1, round(count * self.width))


class ImageModel(Model):
    """A model that accepts images only.

    Attributes:
        min_size: Smallest height and width.
    """

    min_size: ClassVar[int] = 1

    @property
    def input_rank(self) -> int:
        """3: height, width and channels; see `Model.input_rank`."""
        return 3

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        """Check that the data are images that are large enough; see `Model.check`.

        Raises:
            BadInput: If they are not.
        """
        if len(shape) != 3 or min(shape[:2]) < self.min_size:
            size = f" and {self.min_size}x{self.min_size} pixels or more" if self.min_size > 1 else ""
            raise BadInput(
                f"{type(self).__name__} needs images of shape (height, width, channels){size}. Received: {shape}. "
                "Use model=article_mlp, or reshape the data."
            )
