"""Indicators, a 0 or 1 for each of several labels, from arrays as people save them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput


def check_type(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Check that an array can hold indicators.

    Raises:
        BadInput: If its type or its shape cannot.
    """
    if dtype.kind not in "biuf" or len(shape) != 2 or 0 in shape:
        raise BadInput(
            f"{path}: {name} is of type {dtype} and shape {shape}. task=multilabel takes a 0 or 1 for each label, "
            "(n, labels). For one class of each example, say task=classification or set task.labels."
        )


def convert_indicators(path: Path, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Return the indicators of all splits as `(n, labels)` float32, by the name of their array.

    Args:
        path: Path of the file, for messages.
        arrays: Numbers or booleans `(n, labels)` by the name of their array, the train split first.

    Raises:
        BadInput: If a value is neither 0 nor 1, or splits differ in the number of labels.
    """
    train, *_ = arrays
    for name, y in arrays.items():
        if len(broken := np.flatnonzero(~np.isin(y, (0, 1)).all(axis=1))):
            row = broken[0]
            raise BadInput(
                f"{path}: {name} holds {y[row].tolist()} in row {row}. task=multilabel takes a 0 or 1 for each label; "
                "to learn numbers, say task=regression."
            )
        if y.shape[1] != arrays[train].shape[1]:
            raise BadInput(
                f"{path}: {name} holds {y.shape[1]} labels, {train} {arrays[train].shape[1]}. They must be equal."
            )
    return {name: y.astype(np.float32) for name, y in arrays.items()}
