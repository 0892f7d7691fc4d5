"""The data set of a user's `.npz` file."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightexp.core import memmap
from lightexp.core.config import Count, Positive, settings_dataclass
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.protocols import Model, Task
from lightexp.datasets import anomalies, examples, indicators, labels, npz, numbers
from lightexp.datasets.base import InputDataset
from lightexp.datasets.examples import Kind, Layout
from lightexp.datasets.labels import ClassCount, NumberedLabels
from lightexp.datasets.splits import count_fifth, hold_out, make_split

_REMEDY = "Save it again: numpy.savez_compressed(FILE, x_train=..., y_train=...)."
_GROUPS = "groups_test"
_NAMES = {_GROUPS, *(f"{array}{part}" for array in "xy" for part in ("", "_train", "_val", "_test"))}


@settings_dataclass
class Arrays(InputDataset):
    """A `.npz` file with examples and labels of one to three splits.

    Its arrays are `x_train` and `y_train` (or `x` and `y`), and optionally `x_val`, `y_val`, `x_test`, `y_test`.
    Examples are whole numbers, booleans or floats of shape `(n, features)`, `(n, steps, channels)`, `(n, h, w)` or
    `(n, h, w, channels)`. Whole numbers from 0 to 255 are pixels, of any integer type; floats are stored as float32.
    Labels are whole numbers `(n,)` or `(n, 1)` from 0 or 1 without gaps, strings, booleans, or one-hot `(n, classes)`.
    Numbers to learn are `(n,)` or `(n, targets)`, of any number type; several labels at once are `(n, labels)` of 0 and
    1 or booleans. Where anomalies are looked for, labels may be missing, of all splits or of one, whose examples are
    normal then, and `groups_test` may hold what each test example belongs to, such as a machine's id.
    Without a test split a fifth is held out, and without a validation split a fifth of the rest.

    Attributes:
        path: Path of the file.
        kind: What the examples are: `features`, `series` or `image`. Defaults to `auto`: by the number of axes. Three
            axes are series if the model takes series or the last axis has length 1, else grey images.
        layout: Whether channels are the last axis (`nhwc`) or the second (`nchw`). Defaults to `auto`: the last, unless
            only the second is as short as an image has channels.
        targets: Whether targets are `labels` of classes, `numbers`, `indicators`, a 0 or 1 for each of several
            labels, or `anomalies`, labels that may be missing. Defaults to `auto`: as the task learns them.
        classes: Number of classes. Defaults to None: those of the train split. More than those are classes that the
            data lack.
        memory_mb: Megabytes; a split whose examples are larger is kept on disk (in the folder that TMPDIR names) and
            streamed. Does not change results.
        max_gb: Gigabytes that the arrays may unpack to. Defaults to None: 256 MB and 100 times the file's size.
    """

    path: str | None = None
    kind: Kind = "auto"
    layout: Layout = "auto"
    targets: Literal["auto", "labels", "numbers", "indicators", "anomalies"] = "auto"
    classes: ClassCount | None = None
    memory_mb: Count = field(default=4096, metadata={"keyed": False})
    max_gb: Positive | None = field(default=None, metadata={"keyed": False})

    def resolve(self, model: Model) -> Arrays:
        """Return the data set with three axes taken for series if the model takes series; see `Dataset.resolve`."""
        if self.kind != "auto" or model.input_rank != 2:
            return self
        path = self._find_file()
        names = npz.list_names(path, _REMEDY)
        train = "x" if "x_train" not in names and "x" in names else "x_train"
        self._require_array(path, names, train)
        shape = npz.read_shape(path, train, _REMEDY)
        return replace(self, kind="series") if len(shape) == 3 else self

    def serve(self, task: Task) -> Arrays:
        """Return the data set that reads targets as the task learns them; see `Dataset.serve`."""
        if self.targets != "auto":
            return self
        return replace(self, targets=task.target_kind)

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
        suffixes = {"train": "" if "x_train" not in names and "x" in names else "_train"}
        suffixes |= {part: f"_{part}" for part in ("val", "test") if f"x_{part}" in names or f"y_{part}" in names}
        limit = self.memory_mb * 1e6
        for suffix in suffixes.values():
            for name in (f"x{suffix}", *([] if self.targets == "anomalies" else [f"y{suffix}"])):
                self._require_array(path, names, name)
        raw = {f"x{suffix}": _read_examples(path, f"x{suffix}", limit) for suffix in suffixes.values()}
        typed = examples.unify_types(path, raw, limit)
        arranged, notes = self._arrange(path, typed.splits)
        lengths = {f"y{suffix}": len(arranged[f"x{suffix}"]) for suffix in suffixes.values()}
        numbered = self._read_targets(path, names, lengths, limit)
        splits = {}
        for part, suffix in suffixes.items():
            x, y = arranged[f"x{suffix}"], numbered.splits[f"y{suffix}"]
            if len(x) != len(y):
                raise BadInput(
                    f"{path}: x{suffix} holds {len(x)} examples, y{suffix} {len(y)} labels. The numbers must be equal."
                )
            splits[part] = make_split(x, y)
        if self.targets == "anomalies" and _GROUPS in names:
            splits["test"] = self._add_groups(path, splits.get("test"))
        train = splits["train"]
        for part in ("test", "val"):
            if part not in splits:
                train, splits[part] = hold_out(train, count_fifth(len(train)), self.split_seed)
        data = self.make_data(path.stem, train, splits["val"], splits["test"], numbered.classes, typed.top)
        return replace(data, names=numbered.names, notes=(*data.notes, *notes, *typed.notes, *numbered.notes))

    def _read_targets(
        self, path: Path, names: Collection[str], lengths: Mapping[str, int], limit: float
    ) -> NumberedLabels:
        """Return the targets of all splits by the name of their array; numbers have 0 classes.

        Args:
            path: Path of the file.
            names: Names of the file's arrays.
            lengths: Number of examples by the name of the array that their targets have or would have.
            limit: Size in bytes above which an array is kept on disk.
        """
        checks = {"numbers": numbers.check_type, "indicators": indicators.check_type}
        check = checks.get(self.targets, labels.check_type)
        raw = {name: _read_array(path, name, limit, check) for name in lengths if name in names}
        if self.targets == "anomalies":
            return anomalies.number_known_labels(path, raw, lengths, self.classes)
        if self.targets == "indicators":
            return NumberedLabels(indicators.convert_indicators(path, raw), classes=0)
        if self.targets == "numbers":
            return NumberedLabels(numbers.convert_numbers(path, raw), classes=0)
        return labels.number_labels(path, raw, self.classes)

    def _add_groups(self, path: Path, test: Split | None) -> Split:
        """Return the test split with the group of each example."""
        groups = npz.read_array(path, _GROUPS, _REMEDY)
        if test is None or groups.shape != (len(test),) or groups.dtype.kind not in "iuUS":
            raise BadInput(
                f"{path}: {_GROUPS} has shape {groups.shape} and type {groups.dtype}; x_test holds "
                f"{len(test) if test else 0} examples. Give it a whole number or a string for each of x_test."
            )
        return replace(test, groups=groups.astype(np.str_))

    def _find_file(self) -> Path:
        if self.path is None:
            raise BadInput("dataset=arrays needs a file. Received: none. Set dataset.path=FILE.npz")
        path = Path(os.path.expanduser(self.path))
        if not os.path.isfile(path):
            raise BadInput(f"dataset.path={self.path} is not a file. Set dataset.path=FILE.npz")
        return path

    def _require_array(self, path: Path, names: list[str], name: str) -> None:
        if name not in names:
            unknown = [other for other in names if other not in _NAMES]
            hint = suggest_nearest(name, unknown) if unknown else f"it holds {', '.join(names) or 'none'}."
            raise BadInput(f"{path} holds no array {name}: {hint} {_REMEDY}")

    def _arrange(
        self, path: Path, splits: dict[str, NDArray[np.generic]]
    ) -> tuple[dict[str, NDArray[np.generic]], tuple[str, ...]]:
        """Return the examples of all splits with their axes in order, and notes for the user."""
        train = next(iter(splits))
        order, shape, note = examples.arrange_axes(path, train, splits[train].shape, self.kind, self.layout)
        for name, x in splits.items():
            if x.shape[1:] != splits[train].shape[1:]:
                raise BadInput(
                    f"{path}: {name} holds examples of shape {x.shape[1:]}, {train} of {splits[train].shape[1:]}. They "
                    "must be the same."
                )
        arranged = {name: memmap.reorder(x.transpose(order)).reshape(-1, *shape) for name, x in splits.items()}
        return arranged, (note,) if note else ()


def _read_examples(path: Path, name: str, limit: float) -> NDArray[np.generic]:
    def choose_type(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.dtype[Any]:
        return examples.choose_read_type(path, name, shape, dtype)

    return npz.read_array(path, name, _REMEDY, choose_type, limit)


def _read_array(
    path: Path, name: str, limit: float, check: Callable[[Path, str, tuple[int, ...], np.dtype[Any]], None]
) -> NDArray[np.generic]:
    def choose_type(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.dtype[Any]:
        check(path, name, shape, dtype)
        return dtype

    return npz.read_array(path, name, _REMEDY, choose_type, limit)
