"""A data set: images of stripes in two directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightexp.core.config import Count
from lightexp.core.data import Data
from lightexp.datasets.base import InputDataset
from lightexp.datasets.splits import count_fifth, hold_out, make_split


@dataclass(frozen=True)
class Stripes(InputDataset):
    """Noisy 8x8 images with horizontal (class 0) or vertical (class 1) stripes."""

    examples: Count = 200

    def check(self) -> None:
        """Accept any settings; the data set needs no file."""

    def load(self) -> Data:
        rng = np.random.default_rng(0)
        y = np.arange(self.examples) % 2
        horizontal = np.where(np.arange(8) % 2, 200, 0)[:, None].repeat(8, 1)
        x = np.where(y[:, None, None] == 0, horizontal, horizontal.T) + rng.integers(0, 56, (self.examples, 8, 8))
        rest, test = hold_out(make_split(x.astype(np.uint8)[..., None], y), count_fifth(self.examples), self.split_seed)
        train, val = hold_out(rest, count_fifth(len(rest)), self.split_seed)
        return self.make_data("stripes", train, val, test, classes=2, top=255)
