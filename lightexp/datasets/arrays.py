"""The data set of a user's `.npz` file."""

from __future__ import annotations

import math
import os
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import Count, Index, Positive, settings_dataclass
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.datasets import memmap, npz
from lightexp.datasets.base import InputDataset
from lightexp.datasets.splits import count_fifth, hold_out, make_split

_REMEDY = "Save it again: numpy.savez_compressed(FILE, x_train=..., y_train=...)."
_NAMES = {f"{array}{part}" for array in "xy" for part in ("", "_train", "_val", "_test")}


@settings_dataclass
class Arrays(InputDataset):
    """A `.npz` file with examples and labels of one to three splits.

    Its arrays are `x_train` and `y_train` (or `x` and `y`), and optionally `x_val`, `y_val`, `x_test`, `y_test`.
    Examples are uint8 or floats of shape `(n, features)`, `(n, length, 1)`, `(n, h, w)`, to which a channel axis is
    added, or `(n, h, w, channels)`. Labels are integers `(n,)` or `(n, 1)` from 0 without gaps, or one-hot
    `(n, classes)`. Without a test split a fifth is held out, and without a validation split a fifth of the rest. Floats
    are stored as float32.

    Attributes:
        path: Path of the file.
        split_seed: Seed that decides which examples are held out.
        memory_mb: Megabytes; a split whose examples are larger is kept on disk (in the folder that TMPDIR names) and
            streamed. Does not change results.
        max_gb: Gigabytes that the arrays may unpack to. Defaults to None: 256 MB and 100 times the file's size.
    """

    path: str | None = None
    split_seed: Index = 0
    memory_mb: Count = field(default=4096, metadata={"keyed": False})
    max_gb: Positive | None = field(default=None, metadata={"keyed": False})

    def check(self) -> Path:
        """Check that the file exists.

        Returns:
            Path of the file.

        Raises:
            BadInput: If no file is named, or it does not exist.
        """
        return self._find_file()

    def load(self) -> Data:
        """Read, check and split the arrays.

        Returns:
            The data set.

        Raises:
            BadInput: If the file cannot be read, or its arrays are not as the class describes them.
            RunFailed: If neither memory nor disk has room for them.
        """
        path = self._find_file()
        names = npz.list_names(path, _REMEDY)
        npz.check_size(path, _NAMES.intersection(names), _REMEDY, self.max_gb)
        train_suffix = "" if "x_train" not in names and "x" in names else "_train"
        train, columns = self._read_split(path, names, train_suffix)
        classes = _count_classes(path, train, train_suffix, columns)
        splits = {
            part: self._read_split(path, names, f"_{part}")[0]
            for part in ("val", "test")
            if f"x_{part}" in names or f"y_{part}" in names
        }
        for part, split in splits.items():
            _check_same_kind(path, part, split, train, train_suffix)
            if split.y.max() >= classes:
                raise BadInput(
                    f"{path}: y_{part} goes up to {split.y.max()}, y{train_suffix} only to {classes - 1}. "
                    f"Every class must be in y{train_suffix}."
                )
        for part in ("test", "val"):
            if part not in splits:
                train, splits[part] = hold_out(train, count_fifth(len(train)), self.split_seed)
        top = 255 if train.x.dtype == np.uint8 else None
        return self.make_data(path.stem, train, splits["val"], splits["test"], classes, top)

    def _find_file(self) -> Path:
        if self.path is None:
            raise BadInput("dataset=arrays needs a file. Received: none. Set dataset.path=FILE.npz")
        path = Path(os.path.expanduser(self.path))
        if not os.path.isfile(path):
            raise BadInput(f"dataset.path={self.path} is not a file. Set dataset.path=FILE.npz")
        return path

    def _read_split(self, path: Path, names: list[str], suffix: str) -> tuple[Split, int | None]:
        """Return a split, and the number of columns of its labels if they are one-hot."""
        for name in (f"x{suffix}", f"y{suffix}"):
            if name not in names:
                unknown = [other for other in names if other not in _NAMES]
                hint = suggest_nearest(name, unknown) if unknown else f"it holds {', '.join(names) or 'none'}."
                raise BadInput(f"{path} holds no array {name}: {hint} {_REMEDY}")
        limit = self.memory_mb * 1e6
        x = _read_examples(path, f"x{suffix}", limit)
        y, columns = _read_labels(path, f"y{suffix}", limit)
        if len(x) != len(y):
            raise BadInput(
                f"{path}: x{suffix} holds {len(x)} examples, y{suffix} {len(y)} labels. The numbers must be equal."
            )
        return make_split(x, y), columns


def _count_classes(path: Path, train: Split, suffix: str, columns: int | None) -> int:
    labels = np.unique(train.y)
    if len(labels) < 2:
        raise BadInput(f"{path}: y{suffix} holds one class only. A classifier needs two or more.")
    classes = columns or int(labels[-1]) + 1
    if len(labels) < classes:
        absent = np.setdiff1d(np.arange(len(labels) + 1), labels)[0]
        raise BadInput(
            f"{path}: y{suffix} goes up to {classes - 1} but is never {absent}. Number the classes from 0 without gaps."
        )
    return classes


def _check_same_kind(path: Path, part: str, split: Split, train: Split, train_suffix: str) -> None:
    if split.x.shape[1:] != train.x.shape[1:] or split.x.dtype != train.x.dtype:
        raise BadInput(
            f"{path}: x_{part} holds {split.x.dtype} examples of shape {split.x.shape[1:]}, x{train_suffix} "
            f"{train.x.dtype} of {train.x.shape[1:]}. They must be the same."
        )


def _read_examples(path: Path, name: str, limit: float) -> NDArray[np.generic]:
    def choose_type(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.dtype[Any]:
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

    x = npz.read_array(path, name, _REMEDY, choose_type, limit)
    if x.dtype.kind == "f" and not all(np.isfinite(x[chunk]).all() for chunk in memmap.iterate_chunks(x)):
        raise BadInput(f"{path}: {name} holds NaN, infinity or numbers too large for float32. Clean it first.")
    return x[..., None] if x.ndim == 3 and x.shape[2] > 1 else x


def _read_labels(path: Path, name: str, limit: float) -> tuple[NDArray[np.generic], int | None]:
    """Return labels `(n,)`, and their number of columns if they are one-hot in the file."""

    def choose_type(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.dtype[Any]:
        is_one_hot = len(shape) == 2 and shape[1] > 1
        if dtype.kind not in ("iubf" if is_one_hot else "iu"):
            raise BadInput(
                f"{path}: {name} is of type {dtype}. Labels are whole numbers: save it as {name}.astype(numpy.int32)."
            )
        if len(shape) not in (1, 2):
            raise BadInput(f"{path}: {name} has shape {shape}. Give it one whole number for each example, (n,).")
        if not math.prod(shape):
            raise BadInput(f"{path}: {name} is empty, of shape {shape}.")
        return dtype

    y = npz.read_array(path, name, _REMEDY, choose_type, limit)
    if y.ndim == 2 and y.shape[1] > 1:
        return _decode_one_hot(path, name, y), y.shape[1]
    y = y.reshape(-1)
    if y.min() < 0 or y.max() >= 2**31:
        raise BadInput(f"{path}: {name} goes from {y.min()} to {y.max()}. Number the classes from 0 without gaps.")
    return y, None


def _decode_one_hot(path: Path, name: str, y: NDArray[np.generic]) -> NDArray[np.intp]:
    labels = np.empty(len(y), np.intp)
    for chunk in memmap.iterate_chunks(y):
        ones = y[chunk] == 1
        invalid = np.flatnonzero((ones.sum(1) != 1) | ((y[chunk] != 0).sum(1) != 1))
        if len(invalid):
            raise BadInput(
                f"{path}: {name} has shape {y.shape}, but its row {chunk.start + invalid[0]} is not one-hot, a "
                "single 1 among zeros. Give it one whole number for each example, (n,)."
            )
        labels[chunk] = ones.argmax(1)
    return labels
