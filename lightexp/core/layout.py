"""The order of axes in which a model takes examples: as the data have them, channels first, or flat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput

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

    def view(self, inputs: NDArray[_Number], example: Shape) -> NDArray[_Number]:
        """Return a view of contiguous inputs `(n, *shape)` in which they are examples `(n, *example)`."""
        if self.channels_first:
            return np.moveaxis(inputs.reshape(len(inputs), example[-1], *example[:-1]), 1, -1)
        return inputs.reshape(len(inputs), *example)

    def restore(self, outputs: NDArray[_Number], example: Shape) -> NDArray[_Number]:
        """Return outputs `(n, ...)` as `(n, values)`, in the order of an example if they have as many values.

        Args:
            outputs: Outputs of a model with this layout; those of autoencoders are in the order of its inputs.
            example: Shape of an example.
        """
        if self.channels_first and math.prod(outputs.shape[1:]) == math.prod(example):
            outputs = np.moveaxis(outputs.reshape(len(outputs), example[-1], *example[:-1]), 1, -1)
        return outputs.reshape(len(outputs), -1)


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


def has_outputs(shape: Shape, count: int, inputs: Shape = ()) -> bool:
    """Return whether outputs of a shape are `count` numbers, along one axis or in the shape of the inputs.

    Args:
        shape: Shape of the outputs of one example.
        count: Their number.
        inputs: Shape of the model's inputs. Defaults to none: outputs lie along one axis.
    """
    return math.prod(shape) == count and (count == max(shape, default=0) or shape == inputs)


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


def make_mismatch_error(path: Path, input_shape: Shape, output_shape: Shape, shape: Shape, classes: int) -> BadInput:
    """Return the error of a file of other shapes than the data's, with the data or the task that would fit.

    Args:
        path: Path of the file.
        input_shape: Shape of the examples that it takes.
        output_shape: Shape of its outputs.
        shape: Shape of an example.
        classes: Number of outputs that the data need.
    """
    advice = "Take those it was made for"
    if len(input_shape) == len(shape) == 3 and input_shape[2] == shape[2]:
        advice += f", or set dataset.size=[{input_shape[0]},{input_shape[1]}] of an image_folder"
    outputs, inputs = (math.prod(length or 0 for length in sizes) for sizes in (output_shape, input_shape))
    if outputs == inputs == math.prod(shape) > 1:
        advice += ", or say task=reconstruction, which compares outputs with inputs"
    elif outputs == 1:
        advice += ", or say task=binary or task=regression, which fit one output"
    elif classes == 1:
        advice += ", or say task=classification, which fits an output for each class"
    elif len(output_shape) == 1 and output_shape[0] > classes:
        advice += f", or dataset.classes={output_shape[0]} if the data lack some of its classes"
    return BadInput(f"{path} maps {input_shape} to {output_shape}; the data need {shape} to ({classes},). {advice}.")
