"""Splits, digests and keys of data sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.data import Data, Split, split_stratified
from lightexp.core.fingerprint import canonicalize
from lightexp.core.preprocessing import Augment


@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=120), share=st.floats(0, 1), seed=st.integers(0, 2**31 - 1)
)
def test_split_stratified_keeps_proportions(labels: list[int], share: float, seed: int) -> None:
    y = np.array(labels, np.int32)
    count = round(share * len(y))
    rest, chosen = split_stratified(y, count, seed)
    assert len(chosen) == count
    assert sorted([*rest, *chosen]) == list(range(len(y)))  # disjoint and complete
    for label in np.unique(y):
        assert abs(np.sum(y[chosen] == label) - np.sum(y == label) * count / len(y)) < 1 + 1e-9
    again = split_stratified(y, count, seed)
    np.testing.assert_array_equal(again[1], chosen)
    np.testing.assert_array_equal(again[0], rest)


def test_split_stratified_depends_on_the_seed() -> None:
    y = np.arange(1000, dtype=np.int32) % 10
    chosen = [split_stratified(y, 200, seed)[1] for seed in (0, 1)]
    assert len(np.intersect1d(*chosen)) < 80  # 40 by chance
    assert [int(n) for n in np.bincount(y[chosen[0]])] == [20] * 10


def test_split_stratified_breaks_ties() -> None:
    y = np.array([0, 0, 1, 1, 2, 2], np.int32)
    assert sorted(y[split_stratified(y, 1, 0)[1]]) == [0]
    assert sorted(y[split_stratified(y, 2, 0)[1]]) == [0, 1]


@pytest.fixture
def split() -> Split:
    x = np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1)
    return Split(x, np.array([0, 1, 2, 0, 1, 2], np.int32))


def test_digest_covers_types_shapes_and_values(split: Split) -> None:
    same = Split(np.asfortranarray(split.x.copy()), split.y.copy())
    assert same.digest == split.digest
    changed = split.x.copy()
    changed[0, 0, 0, 0] += 1
    others = [
        Split(changed, split.y),
        Split(split.x.astype(np.int8), split.y),
        Split(split.x.reshape(6, 4, 1, 1), split.y),
        Split(split.x, split.y[::-1].copy()),
        Split(split.x[::-1], split.y),
    ]
    assert len({split.digest, *(s.digest for s in others)}) == 6


@given(count=st.integers(0, 12), seed=st.integers(0, 1000))
def test_sample_has_no_duplicates(count: int, seed: int) -> None:
    split = Split(np.arange(9, dtype=np.uint8).reshape(9, 1), np.zeros(9, np.int32))
    sample = split.sample(count, seed).ravel()
    assert len(sample) == len(set(sample)) == min(count, 9)
    np.testing.assert_array_equal(sample, split.sample(count, seed).ravel())


def test_sample_depends_on_the_seed(split: Split) -> None:
    assert len({split.sample(3, seed).tobytes() for seed in range(10)}) > 1


def test_inputs_are_scaled_float32(split: Split) -> None:
    data = Data("d", split, split, split, 3, scale=1 / 23, offset=-0.5)
    inputs = data.inputs(split.x)
    assert inputs.dtype == np.float32
    assert (inputs.min(), inputs.max()) == (-0.5, 0.5)
    assert data.shape == (2, 2, 1)


def test_key_excludes_the_test_split(split: Split) -> None:
    data = Data("d", split, split, split, 3)
    other = Split(split.x[::-1].copy(), split.y)
    assert data.key == replace(data, test=other, name="e").key
    changed = [replace(data, **{k: v}) for k, v in [("train", other), ("val", other), ("classes", 4), ("scale", 2.0)]]
    assert all(c.key != data.key for c in [*changed, replace(data, offset=1.0)])


def test_key_includes_augmentation() -> None:
    split = Split(np.zeros((2, 1), np.uint8), np.array([0, 1], np.int32))
    data = Data("d", split, split, split, 2)
    assert "augment" not in data.key
    mixed = canonicalize(replace(data, augment=Augment(mixup=0.2)).key)
    assert mixed["augment"]["version"] == Augment.version == 2
