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
_RATE = _WEIGHT * _NAT / 2  # half of Newton's step, in the units of weights
_SCATTERED = 8  # sums for each value from which they are not all touched
_CONTEXT_PRIOR = 6  # observations for which the first context's probability counts in the others
_STIFFNESS = 15.0 * UNIT * _NAT * _NAT  # curvature before anything has been seen
_CARRIED = 8 * _STIFFNESS  # curvature that earlier tensors may leave, at most
_BUCKET = 1 << 8  # width in log-odds of the classes of predictions that are corrected, one nat
_BUCKETS = 2 * _LIMIT // _BUCKET + 1
_BUCKET_PRIOR = 30  # observations that a prediction counts for before it is corrected

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
        chosen: The set of weights that each bit uses, by selector, each `(n,)`; the sets' weights are added.
        extras: Further predictions as log-odds, each `(n,)`. Defaults to none.
    """

    contexts: Sequence[Ints]
    chosen: Sequence[Ints]
    extras: Sequence[Ints] = field(default_factory=tuple)


class BitMixer:
    """Codes bits by the mixed predictions of several contexts."""

    def __init__(
        self,
        sizes: Sequence[int],
        sets: Sequence[int],
        weights: Sequence[int],
        share: int,
        earlier: BitMixer | None = None,
        remembers: bool = False,
    ) -> None:
        """Start with nothing seen.

        Args:
            sizes: Number of contexts of each kind.
            sets: Number of sets of weights of each selector.
            weights: What each prediction but the first context's counts at the start, in hundredths: those of the
                contexts, then the further ones.
            share: Probability of a 1 before anything has been seen, in units of 1 / `UNIT`.
            earlier: The mixer of an earlier tensor, whose weights to start with, not changed. Defaults to None.
            remembers: Whether to start with what the earlier mixer has seen, too. Defaults to False.
        """
        self._offsets = np.cumsum([0, *sizes[:-1]])[:, None]
        self._hits: NDArray[np.int64] = np.zeros(sum(sizes), np.int64)
        self._tries: NDArray[np.int64] = np.zeros(sum(sizes), np.int64)
        if earlier and remembers:
            self._hits, self._tries = earlier._hits.copy(), earlier._tries.copy()
        self._share = share
        shape = (len(weights), sum(sets))
        self._set_offsets = np.cumsum([0, *sets[:-1]])
        self._weights: NDArray[np.int64] = np.zeros(shape, np.int64)
        self._weights += np.array(weights)[:, None] * _WEIGHT // (100 * len(sets))
        self._curvature: NDArray[np.float64] = np.full(shape, _STIFFNESS)
        if earlier:
            self._weights[:] = earlier._weights
            self._curvature[:] = np.minimum(earlier._curvature, _CARRIED)
        middles = np.arange(-_LIMIT, _LIMIT + 1, _BUCKET)
        self._bucket_hits: NDArray[np.int64] = _BUCKET_PRIOR * _PROBABILITIES[middles + _LIMIT]
        self._bucket_tries: NDArray[np.int64] = np.full(_BUCKETS, _BUCKET_PRIOR, np.int64)

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
        sets = np.stack(question.chosen) + self._set_offsets[:, None]
        weights = self._weights.take(sets[0], 1)
        for chosen in sets[1:]:
            weights += self._weights.take(chosen, 1)
        mixed = _limit(base + ((weights * inputs).sum(0) >> 16), -_LIMIT, _LIMIT)
        probabilities = _PROBABILITIES[mixed + _LIMIT]
        bits = coder.code_bits(self._correct(mixed, probabilities), bits)
        add_at(self._hits, places[:, bits].reshape(-1))
        add_at(self._tries, places.reshape(-1))
        buckets = (mixed + _LIMIT + _BUCKET // 2) // _BUCKET
        add_at(self._bucket_hits, buckets[bits], UNIT)
        add_at(self._bucket_tries, buckets)
        self._learn(inputs, probabilities, sets, bits)
        return bits

    def _correct(self, mixed: Ints, probabilities: Ints) -> Ints:
        """Return the probabilities half-way to what was seen of bits with such predictions before."""
        below, part = np.divmod(mixed + _LIMIT, _BUCKET)
        seen = self._bucket_hits // self._bucket_tries
        above = np.minimum(below + 1, _BUCKETS - 1)
        corrected = (seen[below] * (_BUCKET - part) + seen[above] * part) // _BUCKET
        return _limit((probabilities + corrected) >> 1, 1, UNIT - 1)

    def _learn(self, inputs: Ints, probabilities: Ints, sets: Ints, bits: Bools) -> None:
        """Move the weights towards lower cost.

        All sums are of integers below 2**53, which floating point adds exactly in any order.
        """
        members: NDArray[np.float64] = np.zeros((len(bits), self._weights.shape[1]))
        for chosen in sets:
            members[np.arange(len(bits)), chosen] = 1
        predictions = inputs.astype(np.float64)
        errors = bits * UNIT - probabilities
        variances = probabilities * (UNIT - probabilities) >> 16
        self._curvature += (variances * predictions * predictions) @ members
        gradients = (errors * predictions) @ members
        self._weights += np.floor(gradients / self._curvature * (_RATE / len(sets))).astype(np.int64)


Mixers = dict[str, BitMixer]
"""The mixers of a tensor by what they code, whose weights the next tensor starts with."""


def start_mixer(mixers: Mixers, name: str, **settings: Any) -> BitMixer:
    """Return a mixer that starts with the weights of the earlier one of that name, and takes its place."""
    mixers[name] = BitMixer(earlier=mixers.get(name), **settings)
    return mixers[name]
