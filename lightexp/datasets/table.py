"""The data set of a user's table: a CSV or Parquet file with named columns."""

from __future__ import annotations

import os
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lightexp.core.config import Positive, settings_dataclass
from lightexp.core.data import Data
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.protocols import Task
from lightexp.datasets import anomalies, indicators, labels, numbers, table_files
from lightexp.datasets.base import InputDataset
from lightexp.datasets.labels import NumberedLabels
from lightexp.datasets.splits import make_split, split_in_fifths
from lightexp.datasets.table_files import Columns

_MAX_CATEGORIES = 100
_Separator = Annotated[str, Field(min_length=1, max_length=1)]


@settings_dataclass
class TableDataset(InputDataset):
    """A CSV or Parquet file: one row for each example, columns of features and of what is learnt from them.

    A column of numbers or booleans is one feature. A column of strings becomes a feature of 0 and 1 for each different
    string, in alphabetical order; so does a column of numbers that `categories` names. Features are in the order of
    the file's columns, and columns of numbers are standardised by the train split, unless `scaling` has a mean or a
    std. Missing values are refused. A fifth of the rows is held out for testing, and a fifth of the rest for
    validation.

    Attributes:
        path: Path of the file: `.csv`, `.tsv` or `.txt` with a first line of names, or `.parquet`.
        target: Name of the column to learn, or a list of several. Defaults to None: the last column, which is said; no
            column where anomalies are looked for.
        ignore: Names of columns to leave out, such as a row's number.
        categories: Names of columns of numbers that are categories, such as a post code.
        targets: Whether targets are `labels` of classes, `numbers`, or `indicators`, columns of 0 and 1 that are labels
            of their own. Defaults to `auto`: as the task learns them.
        separator: Character between the values of a CSV file. Defaults to None: the comma, semicolon, tab or bar that
            the first line holds most of.
        max_gb: Gigabytes that a Parquet file may unpack to. Defaults to None: 256 MB and 100 times the file's size.
    """

    path: str | None = None
    target: str | list[str] | None = None
    ignore: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    targets: Literal["auto", "labels", "numbers", "indicators", "anomalies"] = "auto"
    separator: _Separator | None = None
    max_gb: Positive | None = field(default=None, metadata={"keyed": False})

    def serve(self, task: Task) -> TableDataset:
        """Return the data set that reads targets as the task learns them; see `Dataset.serve`."""
        if self.targets != "auto":
            return self
        return replace(self, targets=task.target_kind)

    def check(self) -> Path:
        """Check that the file exists and has a known suffix.

        Returns:
            Path of the file.

        Raises:
            BadInput: If no file is named, it does not exist, or it is of another kind.
        """
        if self.path is None:
            raise BadInput("dataset=table needs a file. Received: none. Set dataset.path=FILE.csv")
        path = Path(os.path.expanduser(self.path))
        if not os.path.isfile(path):
            raise BadInput(f"dataset.path={self.path} is not a file. Set dataset.path=FILE.csv")
        if path.suffix not in table_files.SUFFIXES:
            known = ", ".join(table_files.SUFFIXES)
            raise BadInput(f"dataset.path={self.path} is no table. Save it as one of {known}.")
        return path

    def load(self) -> Data:
        """Read, check, encode and split the table.

        Returns:
            The data set.

        Raises:
            BadInput: If the file cannot be read, or a column cannot be used.
        """
        path = self.check()
        columns = table_files.read_columns(path, self.separator, self.ignore, self.max_gb)
        targets, note = self._choose_targets(path, columns)
        rows = len(next(iter(columns.values())))
        learnt = self._read_targets(path, {name: columns[name] for name in targets}, rows)
        features = {name: values for name, values in columns.items() if name not in targets}
        self._check_features(path, features)
        encoded = [self._encode(path, name, values) for name, values in features.items()]
        names = [name for part, _ in encoded for name in part]
        is_number = np.concatenate([np.full(len(part), len(part) == 1 and part[0] in features) for part, _ in encoded])
        x = np.concatenate([values for _, values in encoded], axis=1)
        train, val, test = split_in_fifths(make_split(x, learnt.splits["table"]), self.split_seed)
        dataset = self.standardize(train.x[:], is_number)
        data = dataset.make_data(path.stem, train, val, test, learnt.classes, None)
        inputs = f"The model's inputs are {', '.join(names)}."
        return replace(data, names=learnt.names, notes=(*data.notes, *note, *learnt.notes, inputs))

    def _choose_targets(self, path: Path, columns: Columns) -> tuple[list[str], tuple[str, ...]]:
        """Return the names of the columns to learn, and a note if they were not set."""
        if self.target is None and self.targets == "anomalies":
            return [], ("All columns are inputs. dataset.target=NAME names one that tells anomalous rows.",)
        if self.target is None:
            last = list(columns)[-1]
            return [last], (f"The column '{last}' is learnt, the last one. dataset.target=NAME names another.",)
        targets = [self.target] if isinstance(self.target, str) else self.target
        for name in targets:
            if name not in columns:
                hint = suggest_nearest(name, list(columns))
                raise BadInput(f"dataset.target: {path} holds no column '{name}': {hint}")
        if not targets:
            raise BadInput("dataset.target=[] names no column to learn. Set dataset.target=NAME")
        return targets, ()

    def _read_targets(self, path: Path, columns: Columns, rows: int) -> NumberedLabels:
        """Return the targets of all rows under the name `table`; numbers have 0 classes."""
        if not columns:
            return anomalies.number_known_labels(path, {}, {"table": rows}, None)
        if self.targets in ("numbers", "indicators"):
            if text := [name for name, values in columns.items() if values.dtype == object]:
                learnt = {"numbers": "task=regression learns numbers", "indicators": "task=multilabel learns 0 and 1"}
                raise BadInput(
                    f"{path}: column '{text[0]}' holds strings, but {learnt[self.targets]}. To learn classes, leave "
                    "task out."
                )
            stacked = np.stack(list(columns.values()), axis=1)
            if self.targets == "indicators":
                indicated = indicators.convert_indicators(path, {"table": stacked})
                return NumberedLabels(indicated, classes=0, names=tuple(columns))
            return NumberedLabels(numbers.convert_numbers(path, {"table": stacked}), classes=0)
        if len(columns) > 1:
            raise BadInput(
                f"dataset.target={list(columns)} names {len(columns)} columns, but one holds the class. Name one, or "
                "say task=regression to learn numbers."
            )
        ((name, values),) = columns.items()
        place = f"column '{name}'"
        if values.dtype != object and _has_gaps(values):
            return _number_classes(path, place, values)
        numbered = labels.number_labels(path, {place: values.astype(str) if values.dtype == object else values}, None)
        return replace(numbered, splits={"table": numbered.splits[place]})

    def _check_features(self, path: Path, features: Columns) -> None:
        if not features:
            raise BadInput(f"{path} holds no column besides the target. Add columns to learn from.")
        if unknown := [name for name in self.categories if name not in features]:
            hint = suggest_nearest(unknown[0], list(features))
            raise BadInput(f"dataset.categories: {path} has no feature '{unknown[0]}': {hint}")

    def _encode(self, path: Path, name: str, values: NDArray[np.generic]) -> tuple[list[str], NDArray[np.float32]]:
        """Return the names and the values `(n, features)` of the features that a column becomes."""
        if values.dtype != object and name not in self.categories:
            return [name], values.astype(np.float32)[:, None]
        categories, index = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)
        if len(categories) > _MAX_CATEGORIES:
            raise BadInput(
                f"{path}: column '{name}' holds {len(categories):,} different values, such as '{categories[0]}'; "
                f"{_MAX_CATEGORIES} categories are allowed. Leave it out: 'dataset.ignore=[{name}]'."
            )
        one_hot = np.eye(len(categories), dtype=np.float32)[index]
        texts = categories if values.dtype == object else [np.format_float_positional(c, trim="-") for c in categories]
        return [f"{name}={text}" for text in texts], one_hot


def _has_gaps(values: NDArray[np.float64]) -> bool:
    """Return whether labels are whole numbers, but not those from 0 or from 1 to the number of classes."""
    used = np.unique(values)
    is_whole = bool((used == np.rint(used)).all())
    return is_whole and len(used) > 1 and used.tolist() not in (list(range(len(used))), list(range(1, len(used) + 1)))


def _number_classes(path: Path, place: str, values: NDArray[np.float64]) -> NumberedLabels:
    """Return the labels of numbers that are names of classes, such as grades from 3 to 8."""
    used, y = np.unique(values, return_inverse=True)
    if len(used) > _MAX_CATEGORIES:
        raise BadInput(
            f"{path}: {place} holds {len(used):,} different numbers; {_MAX_CATEGORIES} classes are allowed. To learn "
            "numbers, say task=regression."
        )
    names = tuple(f"{value:.0f}" for value in used)
    note = f"The classes are the numbers {', '.join(names)} of {place}, in this order."
    return NumberedLabels({"table": y.astype(np.int32)}, len(used), names, (note,))
