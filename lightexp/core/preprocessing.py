"""Settings of the scaling of raw examples and of the augmentation of training examples."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from lightexp.core.config import Index, NonNegative, settings_dataclass
from lightexp.core.errors import BadInput

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Spread = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Factor = float | tuple[float, ...]
"""A number for all channels, or one for each channel."""


@settings_dataclass
class Scaling:
    """Scaling of raw values to inputs: `(ranged - mean) / std`, with raw values mapped linearly onto `range` first.

    Attributes:
        range: Inputs for 0 and for the largest raw value (255 for bytes). Defaults to None: 0 and 1 for integers;
            floats stay as they are and cannot have a range.
        mean: Number to subtract, or one for each channel. Defaults to None: 0.
        std: Number to divide by, or one for each channel. Defaults to None: 1.

    Example:
        >>> Scaling(range=[-1.0, 1.0]).factors(255, (28, 28, 1))
        (0.00784313725490196, -1.0)
    """

    range: Annotated[list[_Finite], Field(min_length=2, max_length=2)] | None = None
    mean: _Finite | list[_Finite] | None = None
    std: _Spread | list[_Spread] | None = None

    def factors(self, top: float | None, shape: tuple[int, ...]) -> tuple[Factor, Factor]:
        """Return scale and offset such that inputs are `raw * scale + offset`.

        Args:
            top: The largest raw value; None where raw values are floats.
            shape: Shape of one example, with the channel last.

        Raises:
            BadInput: If `range` is set for floats, or `mean` or `std` do not fit the channels.
        """
        if top is None and self.range is not None:
            raise BadInput(
                f"dataset.scaling.range maps whole numbers, but the data are floats. Received: {self.range}. "
                "Use dataset.scaling.mean and dataset.scaling.std."
            )
        low, high = self.range or (0.0, 1.0)
        if low >= high:
            raise BadInput(f"dataset.scaling.range must go up. Received: {self.range}.")
        scale, offset = (1.0, 0.0) if top is None else ((high - low) / top, low)
        if not isinstance(self.mean, list) and not isinstance(self.std, list):
            std = self.std or 1.0
            return scale / std, (offset - (self.mean or 0.0)) / std
        channels = shape[-1]
        means, stds = _expand(self.mean, 0.0, channels, "mean"), _expand(self.std, 1.0, channels, "std")
        pairs = list(zip(means, stds, strict=True))
        return tuple(scale / std for _, std in pairs), tuple((offset - mean) / std for mean, std in pairs)


def _expand(value: float | list[float] | None, default: float, channels: int, name: str) -> list[float]:
    if isinstance(value, list):
        if len(value) != channels:
            raise BadInput(f"dataset.scaling.{name} needs a number for each of {channels} channels. Received: {value}.")
        return value
    return [default if value is None else value] * channels


@settings_dataclass
class Augment:
    """Random changes of training examples, drawn anew at every step inside the TensorFlow graph.

    They are applied in the order of the attributes, after scaling: a filled-in 0 is the model's input 0, as in the
    papers, which is not black if there is a `mean`. Validation, calibration and teachers use unchanged examples.

    Attributes:
        flip: Whether half of the images are mirrored left to right. Defaults to False.
        shift: Largest number of pixels by which an image is moved, in height and width; the gap is 0. Defaults to 0.
        cutout: Side of the square that is set to 0 around a random pixel, clipped at the image's edges (DeVries and
            Taylor 2017, arXiv 1708.04552). Defaults to 0: none.
        mixup: Alpha of the Beta distribution by which pairs of examples and their losses are mixed, with a draw for
            each pair (Zhang et al. 2018, arXiv 1710.09412). Training accuracy counts the label of the larger share;
            logits of teachers are mixed in the loss too. Works on data of any shape. Defaults to 0: none.
    """

    version: ClassVar[int] = 2  # 1 did nothing

    flip: bool = False
    shift: Index = 0
    cutout: Index = 0
    mixup: NonNegative = 0.0

    @property
    def active(self) -> bool:
        """Whether any change is enabled."""
        return self != Augment()

    def check(self, shape: tuple[int, ...]) -> None:
        """Check that examples of a shape can be changed so.

        Raises:
            BadInput: If they are not images, or too small.
        """
        sizes = {"flip": int(self.flip), "shift": self.shift, "cutout": self.cutout}
        for name, size in sizes.items():
            if size and len(shape) != 3:
                raise BadInput(f"dataset.augment.{name} needs images of (height, width, channels). Received: {shape}.")
            if name != "flip" and size >= min(shape[:2], default=0) and size:
                raise BadInput(f"dataset.augment.{name} must be smaller than the image, {shape[:2]}. Received: {size}.")
