"""The tables that scikit-learn ships: breast_cancer, iris and wine with classes, diabetes and linnerud with numbers."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import settings_dataclass
from lightexp.core.data import Data
from lightexp.core.errors import BadInput, format_reason
from lightexp.datasets.base import InputDataset
from lightexp.datasets.splits import make_split, split_in_fifths

_CLASS_FILES = {"breast_cancer": "breast_cancer.csv", "iris": "iris.csv", "wine": "wine_data.csv"}
_NUMBER_FILES = {
    "diabetes": ("diabetes_data_raw.csv.gz", "diabetes_target.csv.gz"),
    "linnerud": ("linnerud_exercise.csv", "linnerud_physiological.csv"),
}


@settings_dataclass
class Sklearn(InputDataset):
    """A table of scikit-learn: features, with classes or numbers to learn from them.

    `breast_cancer` (569 examples, 30 features), `iris` (150, 4) and `wine` (178, 13) have classes; `diabetes` (442, 10)
    has one number, `linnerud` (20, 3) three. Features are standardised by the train split, unless `scaling` has a mean
    or a std. A fifth is held out for testing, and a fifth of the rest for validation.

    Attributes:
        name: Name of the table.

    Example:
        >>> data = Sklearn("breast_cancer").load()
        >>> len(data.train), len(data.val), len(data.test), data.names
        (364, 91, 114, ('malignant', 'benign'))
    """

    name: Literal["breast_cancer", "iris", "wine", "diabetes", "linnerud"] = "breast_cancer"

    def check(self) -> Path:
        """Check that scikit-learn's files exist.

        Returns:
            Path of the first file.

        Raises:
            BadInput: If scikit-learn is not installed.
        """
        return self._find_files()[0]

    def load(self) -> Data:
        """Read and split the table.

        Returns:
            The data set.

        Raises:
            BadInput: If scikit-learn is not installed, or its files are damaged.
        """
        files = self._find_files()
        try:
            x, y, names = _read_classes(files[0]) if len(files) == 1 else _read_numbers(*files)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise BadInput(f"{files[0]} cannot be read: {format_reason(error)}. Install scikit-learn again.") from None
        train, val, test = split_in_fifths(make_split(x, y), self.split_seed)
        dataset = self.standardize(train.x[:])
        return replace(dataset.make_data(self.name, train, val, test, len(names), None), names=names)

    def _find_files(self) -> list[Path]:
        # Importing scikit-learn takes two seconds; finding its folder does not.
        spec = find_spec("sklearn")
        names = (_CLASS_FILES[self.name],) if self.name in _CLASS_FILES else _NUMBER_FILES[self.name]
        for folder in (spec and spec.submodule_search_locations) or ():
            paths = [Path(folder) / "datasets" / "data" / name for name in names]
            if all(path.is_file() for path in paths):
                return paths
        raise BadInput(f"dataset=sklearn needs scikit-learn's {names[0]}, which is not here. pip install scikit-learn")


def _read_classes(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int32] | NDArray[np.float32], tuple[str, ...]]:
    """Return features, labels and the classes' names of a file that begins with its counts and those names."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    count, features, *names = header.split(",")
    table = np.array([line.split(",") for line in lines], float)
    if table.shape != (int(count), int(features) + 1):
        raise ValueError(f"a table of {table.shape}, not of ({count}, {int(features) + 1})")
    return table[:, :-1].astype(np.float32), table[:, -1].astype(np.int32), tuple(names)


def _read_numbers(
    features: Path, targets: Path
) -> tuple[NDArray[np.float32], NDArray[np.int32] | NDArray[np.float32], tuple[str, ...]]:
    """Return features, targets `(n, targets)`, and no names of classes."""
    return _read_table(features), _read_table(targets), ()


def _read_table(path: Path) -> NDArray[np.float32]:
    """Return a table of numbers separated by spaces, `(n, columns)`; a line of headings is left out."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    lines = [line.split() for line in text.splitlines() if not line[0].isalpha()]
    return np.array(lines, np.float32)
