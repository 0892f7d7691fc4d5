"""The MNIST-1D data set."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lightexp.core.config import settings_dataclass
from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.datasets.base import InputDataset
from lightexp.datasets.splits import count_fifth, hold_out, make_split


@settings_dataclass
class Mnist1d(InputDataset):
    """MNIST-1D (Greydanus and Kobak 2020, arXiv 2011.14439): series of 40 numbers in 10 classes.

    The package `mnist1d` generates the same series each time: 4,000 for training, of which a fifth is held out for
    validation, and 1,000 for testing. Raw values are float32 of mean 0 and standard deviation 1, `(n, 40, 1)`.

    """

    def check(self) -> Path:
        """Check that the package is installed.

        Returns:
            Folder of the package.

        Raises:
            BadInput: If it is not installed.
        """
        spec = find_spec("mnist1d")
        if spec is None or spec.origin is None:
            raise BadInput("dataset=mnist1d needs the package mnist1d, which is not installed. pip install mnist1d")
        return Path(spec.origin).parent

    def load(self) -> Data:
        """Generate and split the series, in about three seconds.

        Returns:
            The data set.

        Raises:
            BadInput: If the package is not installed.
        """
        self.check()
        from mnist1d.data import get_dataset_args, make_dataset  # imports matplotlib's pyplot

        # The package seeds the process-wide random number generators.
        states = random.getstate(), np.random.get_state()
        try:
            arrays = make_dataset(get_dataset_args())
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
        splits = ((arrays[f"x{part}"].astype(np.float32)[..., None], arrays[f"y{part}"]) for part in ("", "_test"))
        examples, test = (make_split(x, y) for x, y in splits)
        train, val = hold_out(examples, count_fifth(len(examples)), self.split_seed)
        return self.make_data("mnist1d", train, val, test, classes=10, top=None)
