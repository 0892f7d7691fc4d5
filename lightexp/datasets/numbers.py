"""Numbers that a regression learns, from arrays as people save them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput


def check_type(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Check that an array can hold numbers to learn.

    Raises:
        BadInput: If its type or its shape cannot.
    """
    if dtype.kind not in "iuf":
        raise BadInput(f"{path}: {name} is of type {dtype}. task=regression learns numbers: save it as float32.")
    if len(shape) not in (1, 2) or 0 in shape:
        raise BadInput(f"{path}: {name} has shape {shape}. Give it (n,) or (n, targets).")


def convert_numbers(path: Path, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Return the numbers of all splits as `(n, targets)` float32, by the name of their array.

    Args:
        path: Path of the file, for messages.
        arrays: Numbers `(n,)` or `(n, targets)` by the name of their array, the train split first.

    Raises:
        BadInput: If a number is NaN or infinite, or splits differ in the number of targets.
    """
    with np.errstate(over="ignore"):
        converted = {name: y.reshape(len(y), -1).astype(np.float32) for name, y in arrays.items()}
    train, *_ = converted
    for name, y in converted.items():
        if len(broken := np.flatnonzero(~np.isfinite(y).all(axis=1))):
            row = broken[0]
            raise BadInput(
                f"{path}: {name} holds {arrays[name].reshape(len(y), -1)[row].tolist()} in row {row}, which float32 "
                "cannot hold as a number. Clean it first."
            )
        if y.shape[1] != converted[train].shape[1]:
            raise BadInput(
                f"{path}: {name} holds {y.shape[1]} targets, {train} {converted[train].shape[1]}. They must be equal."
            )
    return converted
