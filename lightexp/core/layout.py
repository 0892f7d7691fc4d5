"""The order of axes in which a model takes examples: as the data have them, channels first, or flat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

LayoutChoice = Literal["auto", "nhwc", "nchw"]
Shape = tuple[int, ...]
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class InputLayout:
    """How examples become a model's inputs.

    Attributes:
        channels_first: Whether the channels, the last axis of an example, become the first.
        shape: Shape of an input; the order of the numbers stays after `channels_first`.
    """

    channels_first: bool
    shape: Shape

    def arrange(self, examples: NDArray[_Number]) -> NDArray[_Number]:
        """Return examples `(n, *example)` as inputs `(n, *shape)`."""
        if self.channels_first:
            examples = np.moveaxis(examples, -1, 1)
        return np.ascontiguousarray(examples).reshape(len(examples), *self.shape)


def find_layout(example: Shape, expected: Shape, choice: LayoutChoice = "auto") -> InputLayout | None:
    """Return how examples become the inputs that a model takes; None if they cannot.

    Axes of length 1 may differ, and either may be flat. Where both orders fit, channels stay last.

    Args:
        example: Shape of an example, with the channel last.
        expected: Shape of an input.
        choice: Whether the model takes channels last (`nhwc`) or first (`nchw`). Defaults to `auto`: what fits.
    """
    if math.prod(example) != math.prod(expected):
        return None
    layouts = [InputLayout(False, expected)]
    if len(example) > 1 and choice != "nhwc":
        layouts.append(InputLayout(True, expected))
    for layout in reversed(layouts) if choice == "nchw" else layouts:
        ordered = (example[-1], *example[:-1]) if layout.channels_first else example
        shapes = [tuple(length for length in shape if length > 1) for shape in (ordered, expected)]
        if shapes[0] == shapes[1] or min(map(len, shapes)) <= 1:
            return layout
    return None


def has_outputs(shape: Shape, count: int) -> bool:
    """Return whether outputs of a shape are `count` numbers, along one axis if there are several."""
    return math.prod(shape) == count == max(shape, default=0)


def describe_layout(example: Shape, layout: InputLayout) -> str | None:
    """Return a sentence on how examples become inputs, for the user; None if they stay as they are."""
    if layout == InputLayout(False, example):
        return None
    if layout.channels_first:
        return f"The model takes {layout.shape}: examples of {example} are given to it with channels first."
    order = ""
    if example[-1] > 1 and len(example) > 1 and len(layout.shape) == 1:
        order = " in the order (height, width, channels)" if len(example) == 3 else " in the order (steps, channels)"
        order += "; if it was trained with channels first, set model.layout=nchw"
    return f"The model takes {layout.shape}: examples of {example} are given to it in that shape{order}."
