"""The user's own arrays."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import Index
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput, nearest
from lightexp.datasets import npz
from lightexp.datasets.inputs import InputDataset
from lightexp.datasets.splits import as_split, fifth, hold_out

_REMEDY = "Save it again: numpy.savez_compressed(FILE, x_train=..., y_train=...)."
_NAMES = {f"{array}{part}" for array in "xy" for part in ("", "_train", "_val", "_test")}


@dataclass(frozen=True)
class Arrays(InputDataset):
    """A `.npz` file of the user's: `x_train` and `y_train` (or `x` and `y`), and `x_val`, `y_val`, `x_test`, `y_test`.

    Examples are uint8 or floats of shape `(n, features)`, `(n, h, w)`, which gains a channel, or `(n, h, w, channels)`;
    labels are whole numbers `(n,)` from 0 without gaps. Where the file has no test split a fifth is held out, and where
    it has no validation split a fifth of the rest. Floats are kept as float32.

    Attributes:
        path: The file.
        split_seed: Decides which examples are held out.
    """

    path: str | None = None
    split_seed: Index = 0

    def check(self) -> None:
        """Checks that the file is there.

        Raises:
            BadInput: If no file was named, or it is not there.
        """
        self._file()

    def load(self) -> Data:
        """Reads, checks and splits the arrays.

        Raises:
            BadInput: If the file cannot be read, or its arrays are not as the class describes them.
        """
        path = self._file()
        there = npz.names(path, _REMEDY)
        plain = "" if "x_train" not in there and "x" in there else "_train"
        train = _split(path, there, plain)
        labels = np.unique(train.y)
        if len(labels) < 2:
            raise BadInput(f"{path}: y{plain} holds one class only. A classifier needs two or more.")
        if labels[-1] != len(labels) - 1:
            absent = next(i for i, label in enumerate(labels) if label != i)
            raise BadInput(
                f"{path}: y{plain} goes up to {labels[-1]} but is never {absent}. "
                "Number the classes from 0 without gaps."
            )
        given = {part: _split(path, there, f"_{part}") for part in ("val", "test") if _either(there, part)}
        for part, split in given.items():
            if split.x.shape[1:] != train.x.shape[1:] or split.x.dtype != train.x.dtype:
                raise BadInput(
                    f"{path}: x_{part} holds {split.x.dtype} examples of shape {split.x.shape[1:]}, x{plain} "
                    f"{train.x.dtype} of {train.x.shape[1:]}. They must be the same."
                )
            if split.y.max() >= len(labels):
                raise BadInput(f"{path}: y_{part} goes up to {split.y.max()}, y{plain} only to {len(labels) - 1}.")
        for part in ("test", "val"):
            if part not in given:
                train, given[part] = hold_out(train, fifth(len(train)), self.split_seed)
        top = 255 if train.x.dtype == np.uint8 else None
        return self.data(path.stem, train, given["val"], given["test"], len(labels), top)

    def _file(self) -> Path:
        if self.path is None:
            raise BadInput("dataset=arrays needs a file. Received: none. Set dataset.path=FILE.npz")
        path = Path(os.path.expanduser(self.path))
        if not os.path.isfile(path):
            raise BadInput(f"dataset.path={self.path} is not a file. Set dataset.path=FILE.npz")
        return path


def _either(there: list[str], part: str) -> bool:
    return f"x_{part}" in there or f"y_{part}" in there


def _split(path: Path, there: list[str], suffix: str) -> Split:
    for name in (f"x{suffix}", f"y{suffix}"):
        if name not in there:
            unknown = [other for other in there if other not in _NAMES]
            hint = nearest(name, unknown) if unknown else f"it holds {', '.join(there) or 'none'}."
            raise BadInput(f"{path} holds no array {name}: {hint} {_REMEDY}")
    x = _examples(path, f"x{suffix}")
    y = _labels(path, f"y{suffix}")
    if len(x) != len(y):
        raise BadInput(f"{path}: x{suffix} holds {len(x)} examples, y{suffix} {len(y)} labels. They must be as many.")
    return as_split(x, y)


def _examples(path: Path, name: str) -> NDArray[np.generic]:
    x = npz.read(path, name, _REMEDY)
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise BadInput(f"{path}: {name} is of type {x.dtype}. Save it as uint8 or float32.")
    if x.ndim not in (2, 3, 4):
        raise BadInput(f"{path}: {name} has shape {x.shape}. Give it (n, features), (n, h, w) or (n, h, w, channels).")
    if not x.size:
        raise BadInput(f"{path}: {name} is empty, of shape {x.shape}.")
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise BadInput(f"{path}: {name} holds NaN, infinity or numbers too large for float32. Clean it first.")
    return x[..., None] if x.ndim == 3 else x


def _labels(path: Path, name: str) -> NDArray[np.generic]:
    y = npz.read(path, name, _REMEDY)
    if y.dtype.kind not in "iu":
        raise BadInput(f"{path}: {name} is of type {y.dtype}. Labels are whole numbers: save it as int32.")
    if y.ndim != 1:
        raise BadInput(f"{path}: {name} has shape {y.shape}. Give it one whole number for each example, (n,).")
    if not y.size:
        raise BadInput(f"{path}: {name} is empty.")
    if y.min() < 0 or y.max() >= 2**31:
        raise BadInput(f"{path}: {name} goes from {y.min()} to {y.max()}. Number the classes from 0 without gaps.")
    return y
