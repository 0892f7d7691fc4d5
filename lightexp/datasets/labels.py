"""Number the classes of a user's labels: whole numbers, strings, booleans or one-hot rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lightexp.core import memmap
from lightexp.core.errors import BadInput, suggest_nearest

ClassCount = Annotated[int, Field(ge=2, le=100_000)]
_MAX_LISTED = 8  # classes in a note


@dataclass(frozen=True)
class NumberedLabels:
    """The labels of all splits, from 0.

    Attributes:
        splits: Labels `(n,)` by the name of their array.
        classes: Number of classes.
        names: Names of the classes; empty where labels are numbers from 0.
        notes: What was changed, for the user.
    """

    splits: Mapping[str, NDArray[Any]]
    classes: int
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_type(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Check that an array can hold labels.

    Raises:
        BadInput: If its type or its shape cannot be labels.
    """
    if dtype.kind not in "iubfUS":
        raise BadInput(f"{path}: {name} is of type {dtype}. Labels are whole numbers or strings: {_advise(name)}.")
    if len(shape) not in (1, 2):
        raise BadInput(f"{path}: {name} has shape {shape}. Give it one label for each example, (n,).")
    if 0 in shape:
        raise BadInput(f"{path}: {name} is empty, of shape {shape}.")


def number_labels(path: Path, arrays: Mapping[str, NDArray[Any]], classes: int | None) -> NumberedLabels:
    """Number the classes of all splits alike.

    Args:
        path: Path of the file, for messages.
        arrays: Labels by the name of their array, the train split first: `(n,)` or `(n, 1)` whole numbers from 0 or
            from 1, strings or booleans, or one-hot `(n, classes)`.
        classes: Number of classes, some of which may have no example. Defaults to None: those in the train split.

    Raises:
        BadInput: If they cannot be numbered.
    """
    columns = {name: y.shape[1] for name, y in arrays.items() if y.ndim == 2 and y.shape[1] > 1}
    splits = {name: _decode_one_hot(path, name, y) if name in columns else y for name, y in arrays.items()}
    splits = {name: _require_text_or_integers(path, name, y.reshape(-1)) for name, y in splits.items()}
    train = next(iter(splits))
    if len({y.dtype.kind == "U" for y in splits.values()}) > 1:
        raise BadInput(f"{path}: labels are strings in some splits and numbers in others. Save all of them alike.")
    if splits[train].dtype.kind == "U":
        return _number_text(path, splits, train, classes)
    if classes is None:
        classes = columns.get(train)
    return _number_integers(path, splits, train, classes)


def _advise(name: str) -> str:
    """Return how to number the classes of an array in NumPy, alike in all splits."""
    if not name.startswith("y"):
        return "number them so, or name them by strings, where the file is written"
    train = name if name in ("y", "y_train") else "y_train"
    return f"save numpy.searchsorted(numpy.unique({train}), {name})"


def _require_text_or_integers(path: Path, name: str, y: NDArray[Any]) -> NDArray[Any]:
    """Return labels `(n,)` as strings or as signed integers."""
    if y.dtype.kind == "S":
        return np.char.decode(y, "utf-8", "replace")
    if y.dtype.kind == "U":
        return y
    if y.dtype.kind == "f":
        whole = np.isfinite(y) & (y == np.rint(y))
        if not whole.all():
            raise BadInput(
                f"{path}: {name} holds {y[~whole][0]}. Labels are classes, whole numbers or strings: {_advise(name)}, "
                "without NaN. To learn numbers, say task=regression."
            )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= 2**31:
        raise BadInput(f"{path}: {name} goes from {low} to {high}. Number the classes from 0: {_advise(name)}.")
    return y if y.dtype.kind == "i" else y.astype(np.int64)


def _number_text(path: Path, splits: dict[str, NDArray[Any]], train: str, classes: int | None) -> NumberedLabels:
    names = np.unique(splits[train])
    _require_several(path, train, len(names), classes)
    if classes is not None and classes != len(names):
        raise BadInput(
            f"dataset.classes={classes}, but {path}: {train} holds {len(names)} strings. Save labels as numbers from 0 "
            "to have classes without examples."
        )
    for name, y in splits.items():
        if len(unknown := np.setdiff1d(y, names)):
            hint = suggest_nearest(str(unknown[0]), [str(known) for known in names])
            raise BadInput(f"{path}: {name} holds '{unknown[0]}', which {train} does not: {hint}")
    numbered = {name: np.searchsorted(names, y).astype(np.int32) for name, y in splits.items()}
    known = tuple(map(str, names))
    listed = ", ".join(f"{number} is {name}" for number, name in enumerate(known[:_MAX_LISTED]))
    note = f"Labels are strings, numbered in alphabetical order: {listed}{', ...' if len(known) > _MAX_LISTED else ''}."
    return NumberedLabels(numbered, len(known), known, (note,))


def _number_integers(path: Path, splits: dict[str, NDArray[Any]], train: str, classes: int | None) -> NumberedLabels:
    used = np.unique(splits[train])
    _require_several(path, train, len(used), classes)
    low = min(int(y.min()) for y in splits.values())
    top = int(used[-1])
    if low == 1 and (top == classes or (classes is None and len(used) == top)):
        names = tuple(map(str, range(1, top + 1)))
        note = f"Labels go from 1 to {top}: each is lowered by 1, so that output 0 of the model is label 1."
        splits = {name: y - 1 for name, y in splits.items()}
        used, top = used - 1, top - 1
    else:
        names, note = (), ""
    if classes is None and len(used) <= top:
        absent = np.setdiff1d(np.arange(len(used) + 1), used)[0]
        raise BadInput(
            f"{path}: {train} goes up to {top} but is never {absent}. If the data lack a class that the model knows, "
            f"set dataset.classes={top + 1}; else number the classes without gaps: {_advise(train)}."
        )
    count = top + 1 if classes is None else classes
    for name, y in splits.items():
        if (highest := int(y.max())) >= count:
            limit = f"{train} only to {top}" if classes is None else f"but dataset.classes is {classes}"
            raise BadInput(
                f"{path}: {name} goes up to {highest}, {limit}. Set dataset.classes={highest + 1}, or number the "
                f"classes from 0: {_advise(name)}."
            )
    notes = (*([note] if note else []), *describe_absent(used, count))
    # The file of a mapped array is the user's, who may change it.
    numbered = {name: y.astype(np.int32, copy=isinstance(y, np.memmap)) for name, y in splits.items()}
    return NumberedLabels(numbered, count, names, notes)


def describe_absent(labels: NDArray[Any], count: int) -> tuple[str, ...]:
    """Return a sentence on the classes that no training example has, if there are some.

    Args:
        labels: Labels of the train split, from 0.
        count: Number of classes.
    """
    absent = np.setdiff1d(np.arange(count), labels)[: _MAX_LISTED + 1].tolist()
    if not absent:
        return ()
    listed = ", ".join(map(str, absent[:_MAX_LISTED])) + (", ..." if len(absent) > _MAX_LISTED else "")
    return (f"No training example has class {listed} of {count}.",)


def _require_several(path: Path, train: str, used: int, classes: int | None) -> None:
    if used < 2 and classes is None:
        raise BadInput(f"{path}: {train} holds one class only. A classifier needs two or more.")


def _decode_one_hot(path: Path, name: str, y: NDArray[Any]) -> NDArray[np.intp]:
    if y.dtype.kind in "US":
        raise BadInput(f"{path}: {name} holds strings of shape {y.shape}. Give it one label for each example, (n,).")
    labels = np.empty(len(y), np.intp)
    for chunk in memmap.iterate_chunks(y):
        ones = y[chunk] == 1
        invalid = np.flatnonzero((ones.sum(1) != 1) | ((y[chunk] != 0).sum(1) != 1))
        if len(invalid):
            raise BadInput(
                f"{path}: {name} has shape {y.shape}, but its row {chunk.start + invalid[0]} is not one-hot, a "
                f"single 1 among zeros. Save {name}.argmax(1) if its rows are probabilities of one class each, "
                "or say task=regression to learn numbers."
            )
        labels[chunk] = ones.argmax(1)
    return labels
