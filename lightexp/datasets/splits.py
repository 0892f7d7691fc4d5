"""Hold out and draw examples, stratified by class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightexp.core import memmap
from lightexp.core.data import Split, split_stratified
from lightexp.core.errors import BadInput
from lightexp.core.streamed_array import Rows, StreamedArray


def count_fifth(count: int) -> int:
    """Return a fifth of `count`, rounded, and at least one."""
    return max(1, round(count / 5))


def hold_out(split: Split, count: int, seed: int) -> tuple[Split, Split]:
    """Move examples from a split to a new one, the same share of each class.

    A class with a single example is in one of the two only. Examples on disk stay where they are.

    Args:
        split: Split to take examples from.
        count: Number of examples to take.
        seed: Seed that decides which; the same seed takes the same examples.

    Returns:
        The remaining and the taken examples, both in their original order.

    Raises:
        BadInput: If no example would remain.
    """
    if count >= len(split):
        raise BadInput(f"The data has too few examples to be split. Received: {len(split)}, of which {count} held out.")
    rest, taken = (
        Split(memmap.read_rows(split.x, indices), split.y[indices])
        for indices in split_stratified(split.y, count, seed)
    )
    return rest, taken


def split_in_fifths(split: Split, seed: int) -> tuple[Split, Split, Split]:
    """Return train, val and test: a fifth is held out for testing, and a fifth of the rest for validation."""
    rest, test = hold_out(split, count_fifth(len(split)), seed)
    train, val = hold_out(rest, count_fifth(len(rest)), seed)
    return train, val, test


def draw_examples(split: Split, count: int, seed: int) -> Split:
    """Return some examples of the train split, the same share of each class, in their original order.

    Args:
        split: The train split.
        count: Number of examples to draw.
        seed: Seed that decides which.

    Raises:
        BadInput: If there are fewer examples, or a class would have none.
    """
    if count > len(split):
        raise BadInput(f"dataset.train_examples is more than the train split has, {len(split)}. Received: {count}.")
    _, indices = split_stratified(split.y, count, seed)
    drawn = Split(memmap.read_rows(split.x, indices), split.y[indices])
    if split.y.ndim == 1 and (lost := np.setdiff1d(split.y, drawn.y)).size:
        raise BadInput(f"dataset.train_examples leaves no example of class {lost[0]}. Received: {count}. Draw more.")
    return drawn


def make_split(x: Rows, y: NDArray[np.generic]) -> Split:
    """Return a split of raw examples `(n, ...)` and labels `(n,)` or numbers `(n, targets)`, both in C order."""
    return Split(
        x if isinstance(x, StreamedArray) else memmap.reorder(x),
        np.ascontiguousarray(y, np.int32 if y.ndim == 1 else np.float32),
    )
