"""The types and shapes of a user's examples: pixels or other numbers, the order of axes, images or series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightexp.core import memmap
from lightexp.core.errors import BadInput

Kind = Literal["auto", "features", "series", "image"]
Layout = Literal["auto", "nhwc", "nchw"]
AXES = {2: "(n, features)", 3: "(n, steps, channels) or (n, h, w)", 4: "(n, h, w, channels)"}
"""What the axes of an array are, by their number."""
_MAX_BYTE = 255
_DARK = 127  # largest value from which bytes are taken for numbers that are no pixels
_CHANNELS = (1, 3, 4)  # of images


@dataclass(frozen=True)
class TypedExamples:
    """The examples of all splits in one type.

    Attributes:
        splits: Examples by the name of their array: uint8 or float32.
        top: Largest possible raw value; None if raw values are floats.
        notes: What the user should know about the choice.
    """

    splits: dict[str, NDArray[np.generic]]
    top: float | None
    notes: tuple[str, ...] = ()


def choose_read_type(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type to read an array of examples as: float32 for floats, else its own.

    Raises:
        BadInput: If its type or its shape cannot be examples.
    """
    if dtype.kind not in "iubf":
        raise BadInput(
            f"{path}: {name} is of type {dtype}. Save it as numbers: pixels from 0 to 255 as uint8, others as float32."
        )
    if len(shape) not in AXES:
        raise BadInput(f"{path}: {name} has shape {shape}. Give it {', '.join(AXES.values())}.")
    if 0 in shape:
        raise BadInput(f"{path}: {name} is empty, of shape {shape}.")
    return np.dtype(np.float32) if dtype.kind == "f" else dtype.newbyteorder("=")


def unify_types(path: Path, arrays: Mapping[str, NDArray[Any]], limit: float) -> TypedExamples:
    """Store the examples of all splits in one type.

    Whole numbers from 0 to 255 become bytes, whatever their type; others become floats.

    Args:
        path: Path of the file, for messages.
        arrays: Examples by the name of their array, the train split first.
        limit: Size in bytes above which an array is on disk; see `memmap.allocate`.

    Raises:
        BadInput: If numbers are not finite, or only some splits are floats.
    """
    train = next(iter(arrays))
    kinds = {x.dtype.kind for x in arrays.values()}
    if kinds == {"f"}:
        for name, x in arrays.items():
            if not all(np.isfinite(x[chunk]).all() for chunk in memmap.iterate_chunks(x)):
                raise BadInput(f"{path}: {name} holds NaN, infinity or numbers too large for float32. Clean it first.")
        return TypedExamples(dict(arrays), None)
    if "f" in kinds:
        other = next(name for name, x in arrays.items() if (x.dtype.kind == "f") != (arrays[train].dtype.kind == "f"))
        raise BadInput(
            f"{path}: {other} holds {arrays[other].dtype} examples, {train} {arrays[train].dtype}. Save both alike."
        )
    low = min(int(x.min()) for x in arrays.values())
    high = max(int(x.max()) for x in arrays.values())
    if kinds == {"b"}:
        return TypedExamples(_convert(arrays, np.uint8, limit), 1.0)
    if low >= 0 and high <= _MAX_BYTE:
        return TypedExamples(_convert(arrays, np.uint8, limit), float(_MAX_BYTE), describe_bytes(train, high))
    if all(x.dtype == np.uint16 for x in arrays.values()):
        note = (
            f"{train} holds 16-bit numbers up to {high}: 0 to 65,535 become inputs from 0 to 1 (dataset.scaling.range)."
        )
        return TypedExamples(_convert(arrays, np.float32, limit), 65_535.0, (note,))
    note = (
        f"{train} holds whole numbers from {low} to {high}, which are no pixels: the model gets them as they are. "
        "Networks learn from numbers near 1: set dataset.scaling.mean and dataset.scaling.std."
    )
    return TypedExamples(_convert(arrays, np.float32, limit), None, (note,))


def describe_bytes(train: str, high: int) -> tuple[str, ...]:
    """Return a sentence for the user if the largest of an array's bytes is so low that they may be no pixels."""
    if high > _DARK:
        return ()
    return (
        f"{train} holds whole numbers up to {high} only, taken for pixels from 0 to 255: inputs go up to "
        f"{high / _MAX_BYTE:.2g}. For inputs up to 1 set dataset.scaling.range=[0,{_MAX_BYTE / max(high, 1):.4g}].",
    )


def _convert(arrays: Mapping[str, NDArray[Any]], dtype: type[np.generic], limit: float) -> dict[str, NDArray[Any]]:
    return {name: _convert_array(x, np.dtype(dtype), limit) for name, x in arrays.items()}


def _convert_array(x: NDArray[Any], dtype: np.dtype[Any], limit: float) -> NDArray[Any]:
    if x.dtype == dtype:
        return x
    converted = memmap.allocate(x.shape, dtype, limit)
    for chunk in memmap.iterate_chunks(x):
        converted[chunk] = x[chunk]
    return converted


def arrange_axes(
    path: Path, name: str, shape: tuple[int, ...], kind: Kind, layout: Layout
) -> tuple[tuple[int, ...], tuple[int, ...], str]:
    """Return how an array becomes features `(n, f)`, series `(n, steps, channels)` or images `(n, h, w, channels)`.

    Args:
        path: Path of the file, for messages.
        name: The array's name, for messages.
        shape: The array's shape.
        kind: What the examples are; `auto` takes three axes for grey images, unless the last has length 1.
        layout: Whether channels are the last axis (`nhwc`) or the second (`nchw`); `auto` recognises images whose
            second axis only is as long as an image has channels.

    Returns:
        The order to transpose the axes to, the shape of an example after that, and a note for the user, which may be
        empty.

    Raises:
        BadInput: If the shape does not fit `kind` or `layout`.
    """
    order, note = tuple(range(len(shape))), ""
    is_grey = len(shape) == 3 and kind in ("auto", "image") and (kind == "image" or shape[2] > 1)
    first = layout == "nchw"
    if layout == "auto" and len(shape) == 4 and kind in ("auto", "image") and _has_channels_first(shape):
        first = True
        note = (
            f"{name} has shape {shape}: its channels are taken to be first. If they are not, set dataset.layout=nhwc."
        )
    if first and (len(shape) == 2 or is_grey):
        raise BadInput(f"dataset.layout=nchw needs channels. Received: {path}: {name} of shape {shape}. Leave it out.")
    if first:
        order = (0, *order[2:], 1)
    example = tuple(shape[axis] for axis in order[1:])
    if kind == "features":
        return order, (int(np.prod(example)),), note
    if (kind == "image" and len(shape) == 2) or (kind == "series" and len(shape) == 4):
        raise BadInput(
            f"dataset.kind={kind} does not fit {path}: {name} of shape {shape}, which are {AXES[len(shape)]}. "
            "Leave out dataset.kind, or reshape the array."
        )
    return order, (*example, 1) if is_grey or (kind == "series" and len(shape) == 2) else example, note


def _has_channels_first(shape: tuple[int, ...]) -> bool:
    _, channels, *sides = shape
    return channels in _CHANNELS and min(sides) > max(_CHANNELS)
