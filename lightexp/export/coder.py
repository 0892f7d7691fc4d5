"""Range coding of symbols, line by line, with models that learn from what has been coded.

Every probability is made from integers by correctly rounded divisions (`perfect=False` has no other arithmetic), so
that another machine makes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from constriction import stream
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
UNIT = 1 << 16  # a probability of 1, as an integer
_PLACE = 8  # lines that the mean density weighs in that of a place
_CONTEXT = 2  # observations that it weighs in that of a context
_EARLIER = 256  # observations that earlier tensors weigh
_LEVELS = 1 << np.arange(5, 12)  # of a place's density: octaves around the mean's 256
_BIT = stream.model.Bernoulli(perfect=False)


class RangeCoder:
    """A stream of symbols: writes those that it is given or, made of what another has written, reads them.

    One walk over the data so serves both: whoever reads has nothing to give.
    """

    def __init__(self, written: bytes | None = None) -> None:
        """An empty stream, or what `finish` gave."""
        words = np.frombuffer(written or b"", "<u4").astype(np.uint32)
        self._coder: Any = stream.queue.RangeDecoder(words) if written is not None else stream.queue.RangeEncoder()

    def bits(self, ones: Ints, given: Bools | None) -> Bools:
        """Codes bits, each with its probability of being 1 (of `UNIT`)."""
        if given is None:
            return cast(Bools, self._coder.decode(_BIT, ones / UNIT) != 0)
        self._coder.encode(given.astype(np.int32), _BIT, ones / UNIT)
        return given

    def symbols(self, counts: Ints, size: int, given: Ints | None) -> Ints:
        """Codes `size` symbols, all of them as likely as their counts."""
        model = stream.model.Categorical(counts.astype(np.float64), perfect=False)
        if given is None:
            return cast(Ints, self._coder.decode(model, size))
        self._coder.encode(given.astype(np.int32), model)
        return given

    def copy(self) -> RangeCoder:
        """The same, on which something can be tried."""
        other = RangeCoder()
        other._coder = self._coder.clone()
        return other

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return int(self._coder.num_bits()) // 8

    def finish(self) -> bytes:
        """What has been written."""
        return bytes(self._coder.get_compressed().astype("<u4").tobytes())


class SymbolCounts:
    """How often symbols were seen, by what they are symbols of; kept from one tensor to the next."""

    def __init__(self, earlier: SymbolCounts | None = None) -> None:
        """What `earlier` has seen, on which something can be tried."""
        self._seen: dict[tuple[int, ...], NDArray[np.int64]] = dict(earlier._seen) if earlier else {}

    def begin(self, name: tuple[int, ...], size: int) -> NDArray[np.int64]:
        """Counts of `size` symbols for a new tensor to add to, in halves; what was seen under that name has faded."""
        counts = np.ones(size, np.int64)
        if name in self._seen:
            counts += self._seen[name] * (2 * _EARLIER) // self._seen[name].sum()
        self._seen[name] = counts
        return counts


def code_adaptively(coder: RangeCoder, counts: NDArray[np.int64], size: int, given: Ints | None) -> Ints:
    """Codes `size` symbols, and counts them."""
    if len(counts) == 1:
        return np.zeros(size, np.int32)
    parts, start = list[Ints](), 0
    while start < size:
        end = min(size, start + max(16, int(counts.sum()) >> 4))
        parts.append(coder.symbols(counts, end - start, None if given is None else given[start:end]))
        counts += 2 * np.bincount(parts[-1], minlength=len(counts))
        start = end
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


@dataclass(frozen=True)
class Grid:
    """How a tensor's values lie in lines that are coded one after another.

    Attributes:
        lines: How many.
        length: Of each.
        turned: Whether a line is a column of the values, not a row.
        lag: How many lines back a like line is expected besides the one before: an image's width. 0 takes no notice of
            lines before.
    """

    lines: int
    length: int
    turned: bool
    lag: int

    def of(self, values: Ints) -> Ints:
        """Values `(count,)` as lines `(lines, length)`."""
        return values.reshape(self.length, self.lines).T if self.turned else values.reshape(self.lines, self.length)

    def back(self, lines: Ints) -> Ints:
        """What `of` was given."""
        return (lines.T if self.turned else lines).reshape(-1)


def code_symbols(
    coder: RangeCoder,
    grid: Grid,
    share: int,
    signs: NDArray[np.int8],
    values: Sequence[NDArray[np.int64]],
    given: Ints | None,
) -> Ints:
    """Codes a tensor's symbols, of which 0 is the commonest.

    Whether a symbol is 0 is coded first. Its contexts: how dense its place in the lines has been, and whether its
    neighbours in the lines before are 0. Which of the other symbols it is has the sign of those neighbours for context.

    Args:
        coder: Writes or reads.
        grid: The order of coding.
        share: Of symbols that are not 0, of `UNIT`; `UNIT` if none is.
        signs: -1 or 1 of each symbol but 0, whose sign is 0.
        values: Counts of the symbols from 1 in each of the 3 contexts, or in one; none codes 0 and 1 only.
        given: The symbols `(count,)`, for the writer.

    Returns:
        The symbols `(count,)`.
    """
    source = None if given is None else grid.of(given)
    lines = np.zeros((grid.lines, grid.length), np.int32)
    seen = np.zeros(grid.length, np.int64)
    nothing = np.zeros(grid.length, np.int8)
    hits, tries = np.full(24, _CONTEXT * share, np.int64), np.full(24, _CONTEXT * UNIT, np.int64)
    for number in range(grid.lines):
        line = None if source is None else source[number]
        above = signs[lines[number - 1]] if grid.lag and number else nothing
        further = signs[lines[number - grid.lag]] if grid.lag and number >= grid.lag else nothing
        if share < UNIT:
            density = 256 * (_PLACE * share + UNIT * seen) // ((_PLACE + number) * share)
            context = 3 * np.searchsorted(_LEVELS, density) + np.abs(above) + np.abs(further)
            chance = np.clip(hits[context] * UNIT // tries[context], 1, UNIT - 1)
            other = coder.bits(chance, None if line is None else line != 0)
            hits += UNIT * np.bincount(context[other], minlength=24)
            tries += UNIT * np.bincount(context, minlength=24)
            seen += other
        else:
            other = np.ones(grid.length, np.bool_)
        lines[number] = other
        for sign, counts in enumerate(values, start=-1):
            where = np.flatnonzero(other & (np.sign(above + further) == sign) if len(values) > 1 else other)
            lines[number, where] = 1 + code_adaptively(
                coder, counts, len(where), None if line is None else line[where] - 1
            )
    return grid.back(lines)
