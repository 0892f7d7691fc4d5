"""Code a tensor of small integers, most of them 0 or near 0, in contexts along all of its axes.

A tensor has three axes: outputs, taps (positions of a kernel or of an image) and inputs. Values are coded in steps of
up to a few hundred: first which of them are 0, then signs, then magnitudes. What is known of a value is how dense its
output, its tap and input, and its pair of output and input are so far, and what its neighbours are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.export.coder import UNIT, Bools, Ints, RangeCoder
from lightexp.export.mixing import Mixers, Question, add_at, start_mixer, to_log_odds

MAX_LEVEL = 255
MAX_COUNT = 1 << 22  # values; more take too much memory
_LARGE = 1 << 19  # values, from which longer steps save time
_STEPS = 4  # of zeros in smaller tensors for one of values: what is learnt in between saves 1% and doubles the time
_SHORTEST = 16  # values of a step
_LENGTHS = MAX_LEVEL.bit_length()
_NODES = _LENGTHS + MAX_LEVEL + 1  # decisions of a magnitude: its bits in unary, then those below the highest
_NODE_SETS = 2 * _LENGTHS  # of weights, for the first of these decisions

# Borders of classes: densities in 1 / 256 of the tensor's, mean magnitudes in eighths, balance of signs in 1 / 64.
_DENSITIES = np.array([4, 16, 45, 90, 128, 181, 256, 362, 512, 724, 1024, 2048, 4096])
_MEANS = np.array([1, 2, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1024])
_BALANCES = np.array([-48, -24, -8, 8, 24, 48])
_D, _M, _B = len(_DENSITIES) + 1, len(_MEANS) + 1, len(_BALANCES) + 1

# The mixers. Their weights are about what they learnt from pruned and rate-trained models.
_ZERO_SIZES = (1, 64, 5 * _D, _D * _D, 32 * _D, _D * _D, 16 * _D, 12 * _D, _D * _D)
_SIGN_SIZES = (1, 9, 81, 17, _B * _B, 9 * _B, 9 * _B, 17 * _B)
_MAGNITUDE_SIZES = tuple(_NODES * size for size in (1, 2, _M, _M, _M, 16, _M, (_M // 2) ** 2, _M))
_ZERO_MIXER: dict[str, Any] = {
    "sizes": _ZERO_SIZES,
    "sets": (5, _D),
    "weights": (18, 12, 0, 5, 9, 16, 8, -5, 20, 4, 32, 16),
}
_SIGN_MIXER: dict[str, Any] = {"sizes": _SIGN_SIZES, "sets": (4, _B), "weights": (45, 25, 32, 13, 15, 15, 25)}
_MAGNITUDE_MIXER: dict[str, Any] = {
    "sizes": _MAGNITUDE_SIZES,
    "sets": (4, _NODE_SETS),
    "weights": (78, 33, 27, 22, 46, 32, 24, 0),
}

_DENSITY_PRIOR = 8  # values that the expected density counts for
_PAIR_PRIOR = 3
_LINE_PRIOR = 12
_AROUND_PRIOR = 6  # neighbours
_MEMORY = 20  # values of an output that its recent density remembers


@dataclass(frozen=True)
class Scan:
    """How a tensor's values are arranged and in which order they are coded.

    Attributes:
        outputs: Size of the first axis.
        taps: Positions of a kernel or an image; 1 if there are none.
        inputs: Size of the last axis.
        row: Taps in a row of the kernel or image.
        outputs_first: Whether an output's values are coded one after another; else those of one tap and input.
    """

    outputs: int
    taps: int
    inputs: int
    row: int
    outputs_first: bool

    @property
    def order(self) -> tuple[int, int, int]:
        """The axes, the slowest first."""
        return (0, 1, 2) if self.outputs_first else (1, 2, 0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Outputs, taps and inputs."""
        return self.outputs, self.taps, self.inputs

    @property
    def count(self) -> int:
        """Number of values."""
        return self.outputs * self.taps * self.inputs


class LevelModels:
    """What tensors have taught for the next: weights of mixers, and densities of outputs and of inputs by their number.

    Attributes:
        mixers: The mixers of the last tensor.
        outputs: Density of each output of the last tensor with that many, in 1 / 256 of the tensor's.
        inputs: Density of each input of the last tensor with that many, likewise.
    """

    def __init__(self, earlier: LevelModels | None = None) -> None:
        """Start with what another has learnt, which is not changed."""
        self.mixers: Mixers = dict(earlier.mixers) if earlier else {}
        self.outputs: dict[int, Ints] = dict(earlier.outputs) if earlier else {}
        self.inputs: dict[int, Ints] = dict(earlier.inputs) if earlier else {}


def code_levels(coder: RangeCoder, models: LevelModels, scan: Scan, share: int, levels: Ints | None) -> Ints:
    """Write or read levels.

    Args:
        coder: The stream.
        models: What earlier tensors have taught; updated.
        scan: The order of coding.
        share: Share of levels that are not 0, in units of 1 / `UNIT`.
        levels: The levels `(count,)`, or None to read them.

    Returns:
        The levels `(count,)`.
    """
    if levels is not None:
        levels = levels.reshape(scan.shape).transpose(scan.order).reshape(-1)
    tensor = _Tensor(coder, models, scan, share)
    coded = tensor.code(levels)
    models.outputs[scan.outputs] = tensor.outputs.compare_density(share)
    models.inputs[scan.inputs] = tensor.inputs.compare_density(share)
    shape = tuple(scan.shape[axis] for axis in scan.order)
    return coded.reshape(shape).transpose(np.argsort(scan.order)).reshape(-1)


class _Groups:
    """Statistics of values by group, such as by output."""

    def __init__(self, group: Ints, size: int) -> None:
        self.group = group.astype(np.int32)  # of each value
        self.seen: NDArray[np.int64] = np.zeros(size, np.int64)
        self.nonzero: NDArray[np.int64] = np.zeros(size, np.int64)
        self.valued: NDArray[np.int64] = np.zeros(size, np.int64)  # of these, those whose values are known
        self.magnitudes: NDArray[np.int64] = np.zeros(size, np.int64)
        self.signs: NDArray[np.int64] = np.zeros(size, np.int64)

    def learn_zeros(self, step: slice, places: Ints) -> None:
        """Count a step's values, of which those at `places` of the step are not 0."""
        group = self.group[step]
        add_at(self.seen, group)
        add_at(self.nonzero, group[places])

    def learn_values(self, places: Ints, values: Ints) -> None:
        """Count values that are not 0 at `places` of the tensor."""
        group = self.group[places]
        add_at(self.valued, group)
        add_at(self.magnitudes, group, np.abs(values))
        add_at(self.signs, group, np.sign(values))

    def estimate_density(self, group: Ints, expected: Ints | int, prior: int) -> Ints:
        """Return the share of values that are not 0, which starts at what is expected."""
        return (self.nonzero[group] * UNIT + prior * expected) // (self.seen[group] + prior)

    def compare_density(self, share: int) -> Ints:
        """Return the density of each group in 1 / 256 of the tensor's."""
        return self.nonzero * UNIT * 256 // np.maximum(self.seen * share, 1)

    def classify_balance(self, group: Ints) -> Ints:
        """Return the class of the balance of signs."""
        return np.searchsorted(_BALANCES, self.signs[group] * 64 // (self.valued[group] + 2))

    def classify_mean(self, group: Ints, expected: int) -> Ints:
        """Return the class of the mean magnitude beyond 1; `expected` is the tensor's, in eighths."""
        mean = (8 * self.magnitudes[group] + 2 * expected) // (self.valued[group] + 2)
        return np.searchsorted(_MEANS, mean - 8, "right")


class _Tensor:
    """Codes the levels of one tensor, step by step."""

    def __init__(self, coder: RangeCoder, models: LevelModels, scan: Scan, share: int) -> None:
        self._coder, self._scan, self._share = coder, scan, share
        sizes = [scan.shape[axis] for axis in scan.order]
        by_order = np.unravel_index(np.arange(scan.count), sizes)
        out, tap, inp = (by_order[scan.order.index(axis)] for axis in range(3))
        self.outputs = _Groups(out, scan.outputs)
        self._lines = _Groups(tap * scan.inputs + inp, scan.taps * scan.inputs)  # the values of one tap and input
        self._pairs = _Groups(out * scan.inputs + inp, scan.outputs * scan.inputs)
        self.inputs = _Groups(inp, scan.inputs)
        self._groups = (self._lines, self.outputs, self._pairs, self.inputs)
        self._recent: NDArray[np.int64] = np.zeros(scan.outputs, np.int64)  # density, remembered for a while
        self._distances = self._list_distances(sizes)
        self._margin = max(self._distances)
        self._levels: NDArray[np.int32] = np.zeros(self._margin + scan.count, np.int32)
        self._nonzero: Bools = np.zeros(self._margin + scan.count, np.bool_)
        self._expected = models.outputs.get(scan.inputs)  # by input, as another layer made them
        used = models.inputs.get(scan.outputs)  # by output, as another layer uses them
        self._expected_outputs = None if used is None else np.clip(used * share // 256, 1, UNIT)
        self._zeros = start_mixer(models.mixers, "zeros", **_ZERO_MIXER, share=share)
        self._signs = start_mixer(models.mixers, "signs", **_SIGN_MIXER, share=UNIT // 2)
        self._magnitudes = start_mixer(models.mixers, "magnitudes", **_MAGNITUDE_MIXER, share=UNIT // 2)

    def _list_distances(self, sizes: list[int]) -> list[int]:
        """Return how far back a value's neighbours are: six taps (or inputs), then an input (or output) or two."""
        out, tap, inp = (int(np.prod(sizes[self._scan.order.index(axis) + 1 :])) for axis in range(3))
        unit, row = tap if self._scan.taps > 1 else inp, self._scan.row
        near = [1, row, row + 1, row - 1, 2, 2 * row] if row > 1 else [1, 2, 3, 4, 5, 6]
        return [unit * distance for distance in near] + ([inp, out] if self._scan.taps > 1 else [out, 2 * out])

    def code(self, levels: Ints | None) -> Ints:
        """Write or read the levels in the order of coding: the zeros of a few steps, then the values between them."""
        start, count = 0, self._scan.count
        longest = min(max(count >> (9 if count >= _LARGE else 10), 256), 2048)
        steps = 1 if count >= _LARGE else _STEPS
        while start < count:
            end = min(count, start + min(max(start >> 3, 16), longest))
            size = max(-(-(end - start) // steps), _SHORTEST)
            for first in range(start, end, size):
                step = slice(first, min(first + size, end))
                self._code_zeros(step, None if levels is None else levels[step])
            self._code_values(slice(start, end), None if levels is None else levels[start:end])
            start = end
        return self._levels[self._margin :]

    def _code_zeros(self, step: slice, levels: Ints | None) -> None:
        first, last = self._margin + step.start, self._margin + step.stop
        spans = [slice(first - distance, last - distance) for distance in self._distances]
        question = self._ask_zeros(spans, [groups.group[step] for groups in self._groups])
        nonzero = self._zeros.code(self._coder, question, None if levels is None else levels != 0)
        places = np.flatnonzero(nonzero)
        self._nonzero[first:last] = nonzero
        for group in self._groups:
            group.learn_zeros(step, places)
        out, size = self.outputs.group[step], len(self._recent)
        fading = np.bincount(out, minlength=size) * self._recent // _MEMORY
        self._recent += np.bincount(out[places], minlength=size) * UNIT - fading

    def _code_values(self, steps: slice, levels: Ints | None) -> None:
        """Write or read the values of several steps that are not 0."""
        places = steps.start + np.flatnonzero(self._nonzero[self._margin + steps.start : self._margin + steps.stop])
        if not len(places):
            return
        near: list[Ints] = [self._levels[self._margin - distance + places] for distance in self._distances]
        groups: list[Ints] = [group.group[places] for group in self._groups]
        values = self._code_signed(near, groups, None if levels is None else levels[places - steps.start])
        self._levels[self._margin + places] = values
        for group in self._groups:
            group.learn_values(places, values)

    def _classify(self, density: Ints) -> Ints:
        return np.searchsorted(_DENSITIES, density * 256 // self._share)

    def _estimate_line(self, line: Ints, inp: Ints) -> tuple[Ints, Ints]:
        """Return the density of lines, and the one that the earlier tensor's outputs let expect, or the inputs'."""
        scan, share = self._scan, self._share
        distance = scan.inputs if scan.taps > 1 else 1
        before, above = np.maximum(line - distance, 0), np.maximum(line - distance * scan.row, 0)
        hits = self._lines.nonzero[before] + self._lines.nonzero[above]
        tries = self._lines.seen[before] + self._lines.seen[above]
        near = (hits * UNIT + _DENSITY_PRIOR * share) // (tries + _DENSITY_PRIOR)
        by_input = self.inputs.estimate_density(inp, share, _DENSITY_PRIOR)
        if self._expected is not None:
            by_input = np.clip(self._expected[inp] * share // 256, 1, UNIT)
        if scan.taps > 1:
            near = (near + by_input) // 2
        elif self._expected is not None:
            near = by_input
        return self._lines.estimate_density(line, near, _LINE_PRIOR), by_input

    def _ask_zeros(self, near: list[slice], groups: list[Ints]) -> Question:
        line, out, pair, inp = groups
        n = [self._nonzero[span] for span in near]
        expected = self._share if self._expected_outputs is None else self._expected_outputs[out]
        by_output = self.outputs.estimate_density(out, expected, _DENSITY_PRIOR)
        by_line, by_input = self._estimate_line(line, inp)
        recent = (self._recent[out] + 4 * self._share) // (4 + _MEMORY)
        four = np.sum(n[:4], axis=0)
        pattern = np.sum([bit << place for place, bit in enumerate(np.asarray(n[:6], np.int64))], axis=0)
        first, second = (np.minimum(np.abs(self._levels[span]), 3) for span in near[:2])
        outputs, lines = self._classify(by_output), self._classify(by_line)
        contexts = [
            np.zeros(len(line), np.int64),
            pattern,
            self._classify(self._pairs.estimate_density(pair, by_output, _PAIR_PRIOR)) * 5 + four,
            outputs * _D + lines,
            lines * 32 + (pattern & 31),
            self._classify(recent) * _D + lines,
            outputs * 16 + first * 4 + second,
            lines * 12 + np.minimum(four, 2) * 4 + n[6] * 2 + n[7],
            self._classify(by_input) * _D + outputs,
        ]
        independent = to_log_odds(by_output) + to_log_odds(by_line) - to_log_odds(np.array([self._share]))
        around = (np.sum(n[:6], axis=0) + n[0] + n[1]) * UNIT + _AROUND_PRIOR * by_output
        extras = [independent, *map(to_log_odds, (recent, by_line, around // (8 + _AROUND_PRIOR)))]
        return Question(contexts, [four, outputs], extras)

    def _code_signed(self, near: list[Ints], groups: list[Ints], known: Ints | None) -> Ints:
        """Write or read values that are not 0."""
        s = [np.sign(level) for level in near]
        vote = 2 * s[0] + 2 * s[1] + s[2] + s[3] + s[4] + s[5]
        line, out, pair, inp = (g.classify_balance(group) for g, group in zip(self._groups, groups, strict=True))
        two, pairs = (s[0] + 1) * 3 + s[1] + 1, (s[6] + 1) * 3 + s[7] + 1
        four = ((s[2] + 1) * 3 + s[3] + 1) * 9 + (s[4] + 1) * 3 + s[5] + 1
        zero = np.zeros(len(vote), np.int64)
        contexts = [zero, two, four, vote + 8, out * _B + line, pair * 9 + two, inp * 9 + pairs, out * 17 + vote + 8]
        question = Question(contexts, [np.minimum(np.abs(vote), 3), out])
        positive = self._signs.code(self._coder, question, None if known is None else known > 0)
        magnitudes = self._code_magnitudes(near, groups, positive, None if known is None else np.abs(known))
        return np.where(positive, magnitudes, -magnitudes)

    def _code_magnitudes(
        self, near: list[Ints], groups: list[Ints], positive: Bools, known: Ints | None
    ) -> NDArray[np.int32]:
        """Write or read magnitudes: their lengths in bits in unary, then the bits below the highest, from the top."""
        sizes = [np.abs(level) for level in near]
        total = self.outputs.valued.sum()
        expected = int(self.outputs.magnitudes.sum() * 8 // total) if total else 16
        line, out, pair, inp = (g.classify_mean(group, expected) for g, group in zip(self._groups, groups, strict=True))
        two = np.minimum(sizes[0], 3) * 4 + np.minimum(sizes[1], 3)
        around = np.searchsorted(_MEANS, sizes[0] + sizes[1] + np.sum(sizes[:6], axis=0))
        coarse = out // 2 * (_M // 2) + line // 2
        zero = np.zeros(len(line), np.int64)
        contexts = np.stack([zero, positive, line, out, pair, two, around, coarse, inp]) * _NODES
        chosen = np.minimum(sizes[0] + sizes[1], 3)

        def decide(live: Ints, nodes: Ints | int, bits: Bools | None) -> Bools:
            sets = [chosen[live], np.minimum(nodes, _NODE_SETS - 1) + 0 * live]
            question = Question(contexts[:, live] + nodes, sets)  # type: ignore[arg-type]
            return self._magnitudes.code(self._coder, question, bits)

        lengths, live = np.ones(len(zero), np.int64), np.arange(len(zero))
        for length in range(1, _LENGTHS):
            live = live[decide(live, length, None if known is None else known[live] >> length != 0)]
            if not len(live):
                break
            lengths[live] += 1
        values = np.ones(len(zero), np.int64)
        for done in range(1, int(lengths.max())):
            live = np.flatnonzero(lengths > done)
            left = lengths[live] - done
            nodes = _LENGTHS + (values[live] << left) + (1 << (left - 1))
            bits = None if known is None else known[live] >> (left - 1) & 1 != 0
            values[live] = 2 * values[live] + decide(live, nodes, bits)
        return values.astype(np.int32)
