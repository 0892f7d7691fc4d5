"""The user's own arrays."""

from __future__ import annotations

import math
import os
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import Count, Index, settings_dataclass
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.datasets import memmap, npz
from lightexp.datasets.base import InputDataset
from lightexp.datasets.splits import count_fifth, hold_out, make_split

_REMEDY = "Save it again: numpy.savez_compressed(FILE, x_train=..., y_train=...)."
_NAMES = {f"{array}{part}" for array in "xy" for part in ("", "_train", "_val", "_test")}


@settings_dataclass
class Arrays(InputDataset):
    """A `.npz` file of the user's: `x_train` and `y_train` (or `x` and `y`), and `x_val`, `y_val`, `x_test`, `y_test`.

    Examples are uint8 or floats of shape `(n, features)`, `(n, length, 1)`, `(n, h, w)`, which gains a channel, or
    `(n, h, w, channels)`; labels are whole numbers `(n,)` or `(n, 1)` from 0 without gaps, or one-hot `(n, classes)`.
    Where the file has no test split a fifth is held out, and where it has no validation split a fifth of the rest.
    Floats are kept as float32.

    Attributes:
        path: The file.
        split_seed: Decides which examples are held out.
        memory_mb: Megabytes; the examples of a split that is larger are kept on disk (in the folder that TMPDIR
            names) and streamed. Changes no result.
    """

    path: str | None = None
    split_seed: Index = 0
    memory_mb: Count = field(default=4096, metadata={"keyed": False})

    def check(self) -> Path:
        """Checks that the file is there, and returns it.

        Raises:
            BadInput: If no file was named, or it is not there.
        """
        return self._file()

    def load(self) -> Data:
        """Reads, checks and splits the arrays.

        Raises:
            BadInput: If the file cannot be read, or its arrays are not as the class describes them.
            RunFailed: If neither memory nor disk has room for them.
        """
        path = self._file()
        there = npz.list_names(path, _REMEDY)
        plain = "" if "x_train" not in there and "x" in there else "_train"
        train, columns = self._split(path, there, plain)
        labels = np.unique(train.y)
        if len(labels) < 2:
            raise BadInput(f"{path}: y{plain} holds one class only. A classifier needs two or more.")
        classes = columns or int(labels[-1]) + 1
        if len(labels) < classes:
            absent = np.setdiff1d(np.arange(len(labels) + 1), labels)[0]
            raise BadInput(
                f"{path}: y{plain} goes up to {classes - 1} but is never {absent}. "
                "Number the classes from 0 without gaps."
            )
        given = {part: self._split(path, there, f"_{part}")[0] for part in ("val", "test") if _either(there, part)}
        for part, split in given.items():
            if split.x.shape[1:] != train.x.shape[1:] or split.x.dtype != train.x.dtype:
                raise BadInput(
                    f"{path}: x_{part} holds {split.x.dtype} examples of shape {split.x.shape[1:]}, x{plain} "
                    f"{train.x.dtype} of {train.x.shape[1:]}. They must be the same."
                )
            if split.y.max() >= classes:
                raise BadInput(
                    f"{path}: y_{part} goes up to {split.y.max()}, y{plain} only to {classes - 1}. Every class must be "
                    f"in y{plain}."
                )
        for part in ("test", "val"):
            if part not in given:
                train, given[part] = hold_out(train, count_fifth(len(train)), self.split_seed)
        top = 255 if train.x.dtype == np.uint8 else None
        return self.make_data(path.stem, train, given["val"], given["test"], classes, top)

    def _file(self) -> Path:
        if self.path is None:
            raise BadInput("dataset=arrays needs a file. Received: none. Set dataset.path=FILE.npz")
        path = Path(os.path.expanduser(self.path))
        if not os.path.isfile(path):
            raise BadInput(f"dataset.path={self.path} is not a file. Set dataset.path=FILE.npz")
        return path

    def _split(self, path: Path, there: list[str], suffix: str) -> tuple[Split, int | None]:
        """One split, and the number of columns of its labels if they are one-hot."""
        for name in (f"x{suffix}", f"y{suffix}"):
            if name not in there:
                unknown = [other for other in there if other not in _NAMES]
                hint = suggest_nearest(name, unknown) if unknown else f"it holds {', '.join(there) or 'none'}."
                raise BadInput(f"{path} holds no array {name}: {hint} {_REMEDY}")
        limit = self.memory_mb * 1e6
        x = _examples(path, f"x{suffix}", limit)
        y, columns = _labels(path, f"y{suffix}", limit)
        if len(x) != len(y):
            raise BadInput(
                f"{path}: x{suffix} holds {len(x)} examples, y{suffix} {len(y)} labels. They must be as many."
            )
        return make_split(x, y), columns


def _either(there: list[str], part: str) -> bool:
    return f"x_{part}" in there or f"y_{part}" in there


def _examples(path: Path, name: str, limit: float) -> NDArray[np.generic]:
    def kept(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.dtype[Any]:
        if dtype != np.uint8 and dtype.kind != "f":
            raise BadInput(
                f"{path}: {name} is of type {dtype}. Save it as uint8 or float32: pixels from 0 to 255 as uint8, other "
                "numbers as float32."
            )
        if len(shape) not in (2, 3, 4):
            raise BadInput(
                f"{path}: {name} has shape {shape}. Give it (n, features), (n, h, w) or (n, h, w, channels)."
            )
        if not math.prod(shape):
            raise BadInput(f"{path}: {name} is empty, of shape {shape}.")
        return np.dtype(np.uint8 if dtype == np.uint8 else np.float32)

    x = npz.read_array(path, name, _REMEDY, kept, limit)
    if x.dtype.kind == "f" and not all(np.isfinite(x[piece]).all() for piece in memmap.iterate_chunks(x)):
        raise BadInput(f"{path}: {name} holds NaN, infinity or numbers too large for float32. Clean it first.")
    return x[..., None] if x.ndim == 3 and x.shape[2] > 1 else x


def _labels(path: Path, name: str, limit: float) -> tuple[NDArray[np.generic], int | None]:
    """Labels `(n,)`, and the number of columns they had if they were one-hot."""

    def kept(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.dtype[Any]:
        one_hot = len(shape) == 2 and shape[1] > 1
        if dtype.kind not in ("iubf" if one_hot else "iu"):
            raise BadInput(
                f"{path}: {name} is of type {dtype}. Labels are whole numbers: save it as {name}.astype(numpy.int32)."
            )
        if len(shape) not in (1, 2):
            raise BadInput(f"{path}: {name} has shape {shape}. Give it one whole number for each example, (n,).")
        if not math.prod(shape):
            raise BadInput(f"{path}: {name} is empty, of shape {shape}.")
        return dtype

    y = npz.read_array(path, name, _REMEDY, kept, limit)
    if y.ndim == 2 and y.shape[1] > 1:
        return _from_one_hot(path, name, y), y.shape[1]
    y = y.reshape(-1)
    if y.min() < 0 or y.max() >= 2**31:
        raise BadInput(f"{path}: {name} goes from {y.min()} to {y.max()}. Number the classes from 0 without gaps.")
    return y, None


def _from_one_hot(path: Path, name: str, y: NDArray[np.generic]) -> NDArray[np.intp]:
    found = np.empty(len(y), np.intp)
    for piece in memmap.iterate_chunks(y):
        ones = y[piece] == 1
        wrong = np.flatnonzero((ones.sum(1) != 1) | ((y[piece] != 0).sum(1) != 1))
        if len(wrong):
            raise BadInput(
                f"{path}: {name} has shape {y.shape}, but its row {piece.start + wrong[0]} is not one-hot, a single 1 "
                "among zeros. Give it one whole number for each example, (n,)."
            )
        found[piece] = ones.argmax(1)
    return found
