"""MNIST-1D."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lightexp.core.config import Index, settings_dataclass
from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.datasets.base import InputDataset
from lightexp.datasets.splits import count_fifth, hold_out, make_split


@settings_dataclass
class Mnist1d(InputDataset):
    """MNIST-1D (Greydanus and Kobak 2020, arXiv 2011.14439): series of 40 numbers in 10 classes.

    The package `mnist1d` makes them, always the same: 4,000 for training, of which a fifth is held out for validation,
    and 1,000 for the test. Raw values are float32 of mean 0 and standard deviation 1, `(n, 40, 1)`.

    Attributes:
        split_seed: Decides which training examples are held out for validation.
    """

    split_seed: Index = 0

    def check(self) -> Path:
        """Checks that the package is installed, and returns its folder.

        Raises:
            BadInput: If it is not.
        """
        spec = find_spec("mnist1d")
        if spec is None or spec.origin is None:
            raise BadInput("dataset=mnist1d needs the package mnist1d, which is not installed. pip install mnist1d")
        return Path(spec.origin).parent

    def load(self) -> Data:
        """Makes and splits the series, in some three seconds.

        Raises:
            BadInput: If the package is not installed.
        """
        self.check()
        from mnist1d.data import get_dataset_args, make_dataset  # imports matplotlib's pyplot

        before = random.getstate(), np.random.get_state()
        try:
            made = make_dataset(get_dataset_args())
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
        parts = ((made[f"x{part}"].astype(np.float32)[..., None], made[f"y{part}"]) for part in ("", "_test"))
        whole, test = (make_split(x, y) for x, y in parts)
        train, val = hold_out(whole, count_fifth(len(whole)), self.split_seed)
        return self.make_data("mnist1d", train, val, test, classes=10, top=None)
