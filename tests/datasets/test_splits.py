"""Splits: of what size, in which shares, and that no example is in two."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.data import Split
from lightexp.core.errors import BadInput
from lightexp.datasets.splits import count_fifth, hold_out, make_split


def numbered(labels: list[int]) -> Split:
    """A split whose examples are their own row numbers."""
    return make_split(np.arange(len(labels), dtype=np.int64)[:, None], np.array(labels))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=200), st.integers(0, 3))
def test_every_example_is_on_one_side_and_classes_keep_their_share(labels: list[int], seed: int) -> None:
    whole = numbered(labels)
    rest, taken = hold_out(whole, count_fifth(len(whole)), seed)
    assert sorted([*rest.x[:, 0], *taken.x[:, 0]]) == list(range(len(labels)))
    assert len(taken) == count_fifth(len(whole))
    for part in (rest, taken):
        assert [labels[i] for i in part.x[:, 0]] == part.y.tolist()
    for label in set(labels):
        share = labels.count(label) * len(taken) / len(labels)
        assert abs(np.count_nonzero(taken.y == label) - share) < 1


def test_the_seed_decides_and_repeats() -> None:
    whole = numbered([i % 3 for i in range(90)])
    first, again, other = (hold_out(whole, 18, seed)[1] for seed in (0, 0, 1))
    assert first.digest == again.digest
    assert first.digest != other.digest


def test_a_class_of_one_example_is_kept() -> None:
    rest, taken = hold_out(numbered([0] * 50 + [1]), 10, 0)
    assert np.count_nonzero(rest.y == 1) + np.count_nonzero(taken.y == 1) == 1


def test_too_few_to_split() -> None:
    with pytest.raises(BadInput, match="too few examples"):
        hold_out(numbered([0]), 1, 0)
