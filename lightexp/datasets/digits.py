"""The data set of scikit-learn's handwritten digits."""

from __future__ import annotations

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lightexp.core.config import settings_dataclass
from lightexp.core.data import Data
from lightexp.core.errors import BadInput, format_reason
from lightexp.datasets.base import InputDataset
from lightexp.datasets.splits import count_fifth, hold_out, make_split


@settings_dataclass
class Digits(InputDataset):
    """1,797 handwritten digits of 8x8 pixels in 10 classes, part of scikit-learn.

    Raw pixels are uint8 from 0 to 16, `(n, 8, 8, 1)`; inputs are from 0 to 1. The source has no test split: a fifth is
    held out for testing, and a fifth of the rest for validation.

    Example:
        >>> data = Digits().load()
        >>> len(data.train), len(data.val), len(data.test)
        (1150, 288, 359)
    """

    def check(self) -> Path:
        """Check that scikit-learn's file exists.

        Returns:
            Path of the file.

        Raises:
            BadInput: If scikit-learn is not installed.
        """
        return _find_file()

    def load(self) -> Data:
        """Read and split the digits.

        Returns:
            The data set.

        Raises:
            BadInput: If scikit-learn is not installed, or its file is damaged.
        """
        path = _find_file()
        try:
            with gzip.open(path) as file:
                table = np.loadtxt(file, delimiter=",")
            if table.shape != (1797, 65):
                raise ValueError(f"a table of {table.shape}, not of (1797, 65)")
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise BadInput(f"{path} cannot be read: {format_reason(error)}. Install scikit-learn again.") from None
        examples = make_split(table[:, :64].astype(np.uint8).reshape(-1, 8, 8, 1), table[:, 64])
        rest, test = hold_out(examples, count_fifth(len(examples)), self.split_seed)
        train, val = hold_out(rest, count_fifth(len(rest)), self.split_seed)
        return self.make_data("digits", train, val, test, classes=10, top=16)


def _find_file() -> Path:
    # Importing scikit-learn takes two seconds; finding its folder does not.
    spec = find_spec("sklearn")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return path
    raise BadInput("dataset=digits needs scikit-learn's digits.csv.gz, which is not here. pip install scikit-learn")
