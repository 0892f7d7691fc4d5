"""Tests of mixing predictions: what it saves, and that every machine computes the same."""

from __future__ import annotations

import numpy as np

from lightexp.export import mixing
from lightexp.export.coder import UNIT, RangeCoder
from lightexp.export.mixing import BitMixer, Question, to_log_odds


def code(coder: RangeCoder, bits: np.ndarray | None) -> np.ndarray:
    """Write or read 40 x 500 bits whose second context says more than the first."""
    mixer, parts = BitMixer((1, 8, 3), (2,), (25, 25), UNIT // 2), []
    place = np.arange(500)
    for start in range(0, 20_000, 500):
        contexts = [place * 0, place % 8, (place + start) % 3]
        parts.append(
            mixer.code(coder, Question(contexts, [place % 2]), None if bits is None else bits[start : start + 500])
        )
    return np.concatenate(parts)


def test_mixed_bits_take_little_more_than_their_entropy() -> None:
    shares = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.01, 0.01])
    bits = np.random.default_rng(0).random(20_000) < np.tile(shares, 2500)[np.arange(20_000) % 500 % 8]
    coder = RangeCoder()
    code(coder, bits)
    entropy = -(shares * np.log2(shares) + (1 - shares) * np.log2(1 - shares)).mean() * 20_000 / 8
    assert coder.size < 1.08 * entropy
    np.testing.assert_array_equal(code(RangeCoder(coder.finish()), None), bits)


def test_tables_are_the_same_on_every_machine() -> None:
    """No exact value is within 1e-7 of the middle of two integers, where a last bit could change what it rounds to."""
    odds = 256 * np.log(np.arange(1, UNIT) / np.arange(UNIT - 1, 0, -1))
    probabilities = UNIT / (1 + np.exp(-np.arange(-3072, 3073) / 256))
    for exact in (odds[odds != 0], probabilities):
        assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-7
    np.testing.assert_array_equal(to_log_odds(np.arange(1, UNIT)), np.rint(odds))
    assert mixing.to_log_odds(np.array([0, UNIT])).tolist() == [-2839, 2839]
