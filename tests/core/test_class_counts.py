"""Tests of counts of examples by class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core import memmap
from lightexp.core.class_counts import count_classes


@given(st.integers(1, 2_000), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_counts_equal_those_of_all_examples_at_once(count: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, 3, (count, classes)).astype(np.float32)  # with ties, of which the first class wins
    labels = rng.integers(0, classes, count).astype(np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memmap, "MAPPED_BYTES", 1 << 10)
        counts = count_classes(logits, labels, classes)
    predictions = logits.argmax(axis=1)
    for label in range(classes):
        assert counts.present[label] == np.sum(labels == label)
        assert counts.predicted[label] == np.sum(predictions == label)
        assert counts.correct[label] == np.sum((labels == label) & (predictions == label))
