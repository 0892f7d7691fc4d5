"""Base class of all data sets: the settings of splits, scaling and augmentation."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import Count, Index, settings_dataclass
from lightexp.core.data import Data, Split
from lightexp.core.preprocessing import Augment, Scaling
from lightexp.core.protocols import Dataset
from lightexp.datasets.splits import draw_examples


@settings_dataclass
class InputDataset(Dataset):
    """A data set with its splits, scaling and augmentation.

    Attributes:
        split_seed: Seed that decides which examples are held out, and which `train_examples` are drawn.
        train_examples: Number of examples to draw from the train split, the same share of each class. Defaults to
            None: all.
        scaling: How raw values become inputs.
        augment: How training examples are augmented.
    """

    split_seed: Index = field(default=0, kw_only=True)
    train_examples: Count | None = field(default=None, kw_only=True)
    scaling: Scaling = field(default_factory=Scaling, kw_only=True)
    augment: Augment = field(default_factory=Augment, kw_only=True)

    def standardize(self, x: NDArray[Any], is_scaled: NDArray[np.bool_] | None = None) -> Self:
        """Return the data set with a scaling by which features have mean 0 and standard deviation 1.

        A constant feature becomes 0. If the scaling has a mean or a std, it stays.

        Args:
            x: Features of the train split `(n, features)`.
            is_scaled: Which features are scaled, `(features,)`. Defaults to None: all.
        """
        if self.scaling.mean is not None or self.scaling.std is not None:
            return self
        mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
        if is_scaled is not None:
            mean, std = np.where(is_scaled, mean, 0.0), np.where(is_scaled, std, 1.0)
        std = np.where(std > 0, std, 1.0)
        return replace(self, scaling=replace(self.scaling, mean=mean.tolist(), std=std.tolist()))

    def make_data(self, name: str, train: Split, val: Split, test: Split, classes: int, top: float | None) -> Data:
        """Combine three splits with the scaling and the augmentation.

        Args:
            name: Name of the data set, for display.
            train: Training split, of which `train_examples` are drawn.
            val: Validation split.
            test: Test split.
            classes: Number of classes.
            top: Largest possible raw value (255 for bytes); None if raw values are floats.

        Returns:
            The data set.

        Raises:
            BadInput: If the scaling or the augmentation does not fit the examples, or `train_examples` are too many or
                too few.
        """
        notes: tuple[str, ...] = ()
        if self.train_examples is not None:
            notes = (f"{self.train_examples:,} of the {len(train):,} training examples are used (train_examples).",)
            train = draw_examples(train, self.train_examples, self.split_seed)
        shape = tuple(train.x.shape[1:])
        self.augment.check(shape)
        scale, offset = self.scaling.factors(top, shape)
        return Data(name, train, val, test, classes, scale, offset, self.augment, notes=notes)
