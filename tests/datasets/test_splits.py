"""Tests of holding out examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.data import Split
from lightexp.core.errors import BadInput
from lightexp.datasets.splits import count_fifth, draw_examples, hold_out, make_split


def number_rows(labels: list[int]) -> Split:
    """Return a split whose examples are their row numbers."""
    return make_split(np.arange(len(labels), dtype=np.int64)[:, None], np.array(labels))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=200), st.integers(0, 3))
def test_hold_out_partitions_and_stratifies(labels: list[int], seed: int) -> None:
    split = number_rows(labels)
    rest, taken = hold_out(split, count_fifth(len(split)), seed)
    assert sorted([*rest.x[:, 0], *taken.x[:, 0]]) == list(range(len(labels)))
    assert len(taken) == count_fifth(len(split))
    for part in (rest, taken):
        assert [labels[i] for i in part.x[:, 0]] == part.y.tolist()
    for label in set(labels):
        share = labels.count(label) * len(taken) / len(labels)
        assert abs(np.count_nonzero(taken.y == label) - share) < 1


def test_hold_out_depends_on_seed_only() -> None:
    split = number_rows([i % 3 for i in range(90)])
    first, repeated, other = (hold_out(split, 18, seed)[1] for seed in (0, 0, 1))
    assert first.digest == repeated.digest
    assert first.digest != other.digest


def test_draw_examples_stratifies_and_keeps_order() -> None:
    labels = [0, 1, 1, 2] * 25
    drawn = draw_examples(number_rows(labels), 20, 0)
    rows = drawn.x[:, 0].tolist()
    assert rows == sorted(set(rows))
    assert [labels[row] for row in rows] == drawn.y.tolist()
    assert np.bincount(drawn.y).tolist() == [5, 10, 5]
    assert draw_examples(number_rows(labels), 20, 0).digest == drawn.digest
    assert draw_examples(number_rows(labels), 20, 1).digest != drawn.digest


def test_draw_examples_of_numbers_and_of_all() -> None:
    split = make_split(np.arange(30)[:, None], np.linspace(0, 1, 30)[:, None])
    assert len(draw_examples(split, 7, 0)) == 7
    assert draw_examples(split, 30, 0).digest == split.digest


@pytest.mark.parametrize(("count", "message"), [(31, "has, 30. Received: 31"), (2, "no example of class 2. Received")])
def test_draw_examples_refuses(count: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        draw_examples(number_rows([0, 1, 2] * 10), count, 0)


def test_hold_out_keeps_class_of_one_example() -> None:
    rest, taken = hold_out(number_rows([0] * 50 + [1]), 10, 0)
    assert np.count_nonzero(rest.y == 1) + np.count_nonzero(taken.y == 1) == 1


def test_hold_out_refuses_too_few_examples() -> None:
    with pytest.raises(BadInput, match="too few examples"):
        hold_out(number_rows([0]), 1, 0)
