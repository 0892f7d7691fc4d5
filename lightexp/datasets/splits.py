"""How a source's examples become train, validation and test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightexp.core.data import Split, split_stratified
from lightexp.core.errors import BadInput
from lightexp.datasets import memmap


def count_fifth(count: int) -> int:
    """A fifth of `count`, rounded, and at least one."""
    return max(1, round(count / 5))


def hold_out(split: Split, count: int, seed: int) -> tuple[Split, Split]:
    """Takes `count` examples out of a split, each class in its share.

    A class of a single example goes to one side only. What is on disk stays on disk.

    Args:
        split: What to take from.
        count: How many to take.
        seed: Decides which; the same seed takes the same examples.

    Returns:
        What is left and what was taken, both in the order they had.

    Raises:
        BadInput: If nothing would be left.
    """
    if count >= len(split):
        raise BadInput(f"The data has too few examples to be split. Received: {len(split)}, of which {count} held out.")
    rest, taken = split_stratified(split.y, count, seed)
    left, held = (Split(memmap.read_rows(split.x, chosen), split.y[chosen]) for chosen in (rest, taken))
    return left, held


def make_split(x: NDArray[np.generic], y: NDArray[np.generic]) -> Split:
    """A split of raw examples `(n, ...)` and whole-number labels `(n,)`, laid out in C order."""
    return Split(memmap.reorder(x), np.ascontiguousarray(y, np.int32))
