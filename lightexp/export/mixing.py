"""Predict bits by mixing what several contexts have seen, in integers, so that every machine predicts the same.

This is logistic mixing, as in Mahoney's PAQ coders: each context's probability becomes log-odds, the log-odds are added
with weights, and the weights follow the errors. Arrays of bits are predicted at once, and learnt from after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.export.coder import UNIT, Bools, Ints, RangeCoder

_NAT = 256  # units of log-odds in one nat
_LIMIT = 12 * _NAT  # log-odds are at most this
_WEIGHT = 1 << 16  # a weight of 1
_START_WEIGHT = _WEIGHT // 4
_RATE = _WEIGHT * _NAT / 4  # a quarter of Newton's step, in the units of weights
_SCATTERED = 8  # sums for each value from which they are not all touched
_CONTEXT_PRIOR = 2  # observations for which the first context's probability counts in the others
_STIFFNESS = 5.0 * UNIT * _NAT * _NAT  # curvature before anything has been seen
_CARRIED = 8 * _STIFFNESS  # curvature that earlier tensors may leave, at most

# Log-odds of the probability i / UNIT, and the probability of the log-odds i - _LIMIT. A test shows that no exact value
# is so near the middle between two integers that another machine's logarithm or exponential could change an entry.
_LOG_ODDS: NDArray[np.int64] = np.zeros(UNIT, np.int64)
_LOG_ODDS[1:] = np.rint(_NAT * np.log(np.arange(1, UNIT) / np.arange(UNIT - 1, 0, -1)))
_PROBABILITIES: NDArray[np.int64] = np.rint(UNIT / (1 + np.exp(-np.arange(-_LIMIT, _LIMIT + 1) / _NAT))).astype(
    np.int64
)
_PROBABILITIES = np.clip(_PROBABILITIES, 1, UNIT - 1)


def _limit(values: Ints, low: int, high: int) -> Ints:
    """Return values between two limits, in a fraction of the time that `np.clip` takes for short arrays."""
    return np.minimum(np.maximum(values, low), high)


def to_log_odds(probabilities: Ints) -> Ints:
    """Return the log-odds of probabilities in units of 1 / `UNIT`, in units of 1 / 256 nat."""
    return _LOG_ODDS[_limit(probabilities, 1, UNIT - 1)]


def add_at(sums: NDArray[np.int64], places: Ints, values: Ints | int = 1) -> None:
    """Add values to sums at places, which may repeat, by the faster way for so many sums."""
    if len(sums) > _SCATTERED * len(places):
        np.add.at(sums, places, values)
    elif isinstance(values, int):
        sums += values * np.bincount(places, minlength=len(sums))
    else:
        sums += np.bincount(places, values, len(sums)).astype(np.int64)


@dataclass
class Question:
    """What is known about bits before they are coded.

    Attributes:
        contexts: The context of each kind, each `(n,)`; the others refine the first.
        chosen: The set of weights that each bit uses, `(n,)`.
        extras: Further predictions as log-odds, each `(n,)`. Defaults to none.
    """

    contexts: Sequence[Ints]
    chosen: Ints
    extras: Sequence[Ints] = field(default_factory=tuple)


class BitMixer:
    """Codes bits by the mixed predictions of several contexts."""

    def __init__(
        self,
        sizes: Sequence[int],
        sets: int,
        share: int,
        extras: int = 0,
        earlier: BitMixer | None = None,
        remembers: bool = False,
    ) -> None:
        """Start with nothing seen.

        Args:
            sizes: Number of contexts of each kind.
            sets: Number of sets of weights.
            share: Probability of a 1 before anything has been seen, in units of 1 / `UNIT`.
            extras: Number of predictions that are passed with the contexts. Defaults to 0.
            earlier: The mixer of an earlier tensor, whose weights to start with, not changed. Defaults to None.
            remembers: Whether to start with what the earlier mixer has seen, too. Defaults to False.
        """
        self._offsets = np.cumsum([0, *sizes[:-1]])[:, None]
        self._hits: NDArray[np.int64] = np.zeros(sum(sizes), np.int64)
        self._tries: NDArray[np.int64] = np.zeros(sum(sizes), np.int64)
        if earlier and remembers:
            self._hits, self._tries = earlier._hits.copy(), earlier._tries.copy()
        self._share = share
        shape = (len(sizes) - 1 + extras, sets)
        self._weights: NDArray[np.int64] = np.full(shape, _START_WEIGHT, np.int64)
        self._curvature: NDArray[np.float64] = np.full(shape, _STIFFNESS)
        if earlier:
            self._weights[:] = earlier._weights
            self._curvature[:] = np.minimum(earlier._curvature, _CARRIED)

    def code(self, coder: RangeCoder, question: Question, bits: Bools | None) -> Bools:
        """Write or read bits, and learn from them.

        Args:
            coder: The stream.
            question: What is known about the bits.
            bits: The bits `(n,)`, or None to read them.

        Returns:
            The bits.
        """
        places = np.stack(question.contexts) + self._offsets
        hits, tries = self._hits[places] * UNIT, self._tries[places]
        first = _limit((hits[0] + self._share) // (tries[0] + 1), 1, UNIT - 1)
        base = _LOG_ODDS[first]
        inputs = to_log_odds((hits[1:] + _CONTEXT_PRIOR * first) // (tries[1:] + _CONTEXT_PRIOR))
        inputs = np.concatenate([inputs, *(extra[None] for extra in question.extras)]) - base
        mixed = base + ((self._weights[:, question.chosen] * inputs).sum(0) >> 16)
        probabilities = _PROBABILITIES[_limit(mixed, -_LIMIT, _LIMIT) + _LIMIT]
        bits = coder.code_bits(probabilities, bits)
        add_at(self._hits, places[:, bits].reshape(-1))
        add_at(self._tries, places.reshape(-1))
        self._learn(inputs, probabilities, question.chosen, bits)
        return bits

    def _learn(self, inputs: Ints, probabilities: Ints, chosen: Ints, bits: Bools) -> None:
        """Move the weights towards lower cost.

        All sums are of integers below 2**53, which floating point adds exactly in any order.
        """
        sets: NDArray[np.float64] = np.zeros((len(bits), self._weights.shape[1]))
        sets[np.arange(len(bits)), chosen] = 1
        errors = bits * UNIT - probabilities
        variances = probabilities * (UNIT - probabilities) >> 16
        self._curvature += (variances * inputs * inputs).astype(np.float64) @ sets
        gradients = (errors * inputs).astype(np.float64) @ sets
        self._weights += np.floor(gradients / self._curvature * _RATE).astype(np.int64)


Mixers = dict[str, BitMixer]
"""The mixers of a tensor by what they code, whose weights the next tensor starts with."""


def start_mixer(mixers: Mixers, name: str, sizes: Sequence[int], sets: int, **settings: Any) -> BitMixer:
    """Return a mixer that starts with the weights of the earlier one of that name, and takes its place."""
    mixers[name] = BitMixer(sizes, sets, earlier=mixers.get(name), **settings)
    return mixers[name]
