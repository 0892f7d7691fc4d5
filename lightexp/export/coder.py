"""Adaptive range coding of a tensor's symbols, line by line, with models that learn from what has been coded.

Every probability is computed from integers by correctly rounded divisions (`perfect=False` uses no other arithmetic),
so that encoder and decoder agree on every machine.
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
UNIT = 1 << 16
"""A probability of 1, as an integer."""
_BIT = stream.model.Bernoulli(perfect=False)

# How many observations (lines, symbols) earlier knowledge counts for when a model starts.
_DENSITY_PRIOR = 8  # lines, for the mean density in the density of a position
_CONTEXT_PRIOR = 2  # observations, for the mean density in a context
_TENSOR_PRIOR = 256  # observations, for earlier tensors in a new tensor's counts
_BELL_PRIOR = 2048  # observations, for the distribution of a given scale
MAX_SCALE = 24
"""Of the distributions by `make_bell_counts`."""

_MEAN_DENSITY = 256  # a position's density is relative to the mean, in units of 1 / 256
_DENSITY_LEVELS = 1 << np.arange(5, 12)  # borders between classes of density: octaves around the mean
_CONTEXTS = 3 * (len(_DENSITY_LEVELS) + 1)  # a class of density and 0, 1 or 2 neighbours that are not 0


class RangeCoder:
    """A stream of symbols that is written, or read from bytes that another stream wrote.

    The same calls serve both: the writer passes the symbols, the reader passes None and gets them.

    Example:
        >>> import numpy as np
        >>> writer = RangeCoder()
        >>> counts = np.array([3, 1])
        >>> _ = writer.code_with_counts(counts, 4, np.array([0, 0, 1, 0]))
        >>> RangeCoder(writer.finish()).code_with_counts(counts, 4, None).tolist()
        [0, 0, 1, 0]
    """

    def __init__(self, encoded: bytes | None = None) -> None:
        """Open a stream.

        Args:
            encoded: What `finish` returned, to be read. Defaults to None: an empty stream, to be written.
        """
        if encoded is None:
            self._coder: Any = stream.queue.RangeEncoder()
        else:
            self._coder = stream.queue.RangeDecoder(np.frombuffer(encoded, "<u4").astype(np.uint32))

    def code_bits(self, probabilities: Ints, bits: Bools | None) -> Bools:
        """Write or read bits.

        Args:
            probabilities: Of each bit being 1, in units of 1 / `UNIT`, `(n,)`.
            bits: The bits `(n,)`, or None to read them.

        Returns:
            The bits.
        """
        if bits is None:
            return cast(Bools, self._coder.decode(_BIT, probabilities / UNIT) != 0)
        self._coder.encode(bits.astype(np.int32), _BIT, probabilities / UNIT)
        return bits

    def code_with_counts(self, counts: Ints, size: int, symbols: Ints | None) -> Ints:
        """Write or read `size` symbols whose probabilities are in proportion to `counts`.

        Args:
            counts: A positive count for each symbol from 0.
            size: Number of symbols.
            symbols: The symbols `(size,)`, or None to read them.

        Returns:
            The symbols.
        """
        model = stream.model.Categorical(counts.astype(np.float64), perfect=False)
        if symbols is None:
            return cast(Ints, self._coder.decode(model, size))
        self._coder.encode(symbols.astype(np.int32), model)
        return symbols

    def copy(self) -> RangeCoder:
        """Return a copy, for trying out what something would cost."""
        other = RangeCoder()
        other._coder = self._coder.clone()
        return other

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return int(self._coder.num_bits()) // 8

    def finish(self) -> bytes:
        """Return the bytes written."""
        return bytes(self._coder.get_compressed().astype("<u4").tobytes())


class SymbolCounts:
    """How often symbols have been seen, by kind of symbol, carried over from one tensor to the next."""

    def __init__(self, earlier: SymbolCounts | None = None) -> None:
        """Start with what another has seen.

        Args:
            earlier: Counts to start with, not changed. Defaults to None.
        """
        self._counts: dict[tuple[int, ...], NDArray[np.int64]] = dict(earlier._counts) if earlier else {}

    def begin(self, kind: tuple[int, ...], size: int) -> NDArray[np.int64]:
        """Return counts for a new tensor, in halves, to be updated in place.

        Args:
            kind: The kind of symbol; its counts in earlier tensors are scaled down to a fixed weight.
            size: Number of different symbols.
        """
        counts = np.ones(size, np.int64)
        if kind in self._counts:
            counts += self._counts[kind] * (2 * _TENSOR_PRIOR) // self._counts[kind].sum()
        self._counts[kind] = counts
        return counts


def make_bell_counts(scale: int) -> NDArray[np.int64]:
    """Return counts of the bytes of int8 values, in halves, that fall with the fourth power of the distance from 0.

    Args:
        scale: From 1 to `MAX_SCALE`; two more double the variance.
    """
    values = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float64)
    variance = 32 * (2 + (scale - 1 & 1)) << (scale - 1 >> 1)
    share = 2 * variance / (2 * variance + values * values)
    heights = np.floor(share * share * UNIT).astype(np.int64)
    counts: NDArray[np.int64] = 1 + heights * (2 * _BELL_PRIOR) // heights.sum()
    return counts


def code_adaptively(coder: RangeCoder, counts: NDArray[np.int64], size: int, symbols: Ints | None) -> Ints:
    """Write or read `size` symbols by counts that are updated with them.

    Args:
        coder: The stream.
        counts: Count of each symbol, in halves; updated in place.
        size: Number of symbols.
        symbols: The symbols `(size,)`, or None to read them.

    Returns:
        The symbols.
    """
    if len(counts) == 1:
        return np.zeros(size, np.int32)
    parts, start = list[Ints](), 0
    while start < size:
        end = min(size, start + max(16, int(counts.sum()) >> 4))
        part = None if symbols is None else symbols[start:end]
        parts.append(coder.code_with_counts(counts, end - start, part))
        counts += 2 * np.bincount(parts[-1], minlength=len(counts))
        start = end
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


@dataclass(frozen=True)
class Grid:
    """How a tensor's values are arranged in lines, which are coded one after another.

    Attributes:
        lines: Number of lines.
        length: Values in a line.
        by_column: Whether a line is a column of the values, not a row.
        lag: Distance of an earlier line that resembles a line as much as the one before does, such as an image's
            width; 0 to ignore earlier lines.
    """

    lines: int
    length: int
    by_column: bool
    lag: int

    def to_lines(self, values: Ints) -> Ints:
        """Arrange values `(count,)` in lines `(lines, length)`."""
        if self.by_column:
            return values.reshape(self.length, self.lines).T
        return values.reshape(self.lines, self.length)

    def from_lines(self, lines: Ints) -> Ints:
        """Return the values `(count,)` of lines `(lines, length)`."""
        return (lines.T if self.by_column else lines).reshape(-1)


class _ZeroModel:
    """Predicts which symbols of a line are 0, from each position's density so far and the neighbours in other lines.

    Attributes:
        share: Mean share of symbols that are not 0, in units of 1 / `UNIT`.
    """

    def __init__(self, share: int, length: int) -> None:
        self.share = share
        self._nonzero = np.zeros(length, np.int64)  # by position
        self._hits = np.full(_CONTEXTS, _CONTEXT_PRIOR * share, np.int64)
        self._tries = np.full(_CONTEXTS, _CONTEXT_PRIOR * UNIT, np.int64)

    def code(self, coder: RangeCoder, number: int, neighbours: Ints, line: Ints | None) -> Bools:
        """Write or read which symbols of line `number` are not 0; `neighbours` counts each one's that are not 0."""
        mean = (_DENSITY_PRIOR + number) * self.share
        density = _MEAN_DENSITY * (_DENSITY_PRIOR * self.share + UNIT * self._nonzero) // mean
        context = 3 * np.searchsorted(_DENSITY_LEVELS, density) + neighbours
        probabilities = np.clip(self._hits[context] * UNIT // self._tries[context], 1, UNIT - 1)
        nonzero = coder.code_bits(probabilities, None if line is None else line != 0)
        self._hits += UNIT * np.bincount(context[nonzero], minlength=_CONTEXTS)
        self._tries += UNIT * np.bincount(context, minlength=_CONTEXTS)
        self._nonzero += nonzero
        return nonzero


def code_tensor(
    coder: RangeCoder,
    grid: Grid,
    share: int,
    signs: NDArray[np.int8],
    counts: Sequence[NDArray[np.int64]],
    symbols: Ints | None,
) -> Ints:
    """Write or read a tensor's symbols, of which 0 is the most common.

    Whether a symbol is 0 is coded first, in the context of its position's density in earlier lines and of whether its
    neighbours in earlier lines are 0. Which of the other symbols it is, is coded in the context of the neighbours'
    sign.

    Args:
        coder: The stream.
        grid: The order of coding.
        share: Share of symbols that are not 0, in units of 1 / `UNIT`; `UNIT` if none is 0.
        signs: -1 or 1 for each symbol; 0 for symbol 0.
        counts: Counts of the symbols from 1 for each of the 3 contexts, or for all of them together; empty if there
            are the symbols 0 and 1 only.
        symbols: The symbols `(count,)`, or None to read them.

    Returns:
        The symbols `(count,)`.
    """
    source = None if symbols is None else grid.to_lines(symbols)
    lines = np.zeros((grid.lines, grid.length), np.int32)
    no_signs = np.zeros(grid.length, np.int8)
    zero_model = _ZeroModel(share, grid.length)
    for number in range(grid.lines):
        line = None if source is None else source[number]
        previous = signs[lines[number - 1]] if grid.lag and number else no_signs
        similar = signs[lines[number - grid.lag]] if grid.lag and number >= grid.lag else no_signs
        nonzero = np.ones(grid.length, np.bool_)
        if share < UNIT:
            nonzero = zero_model.code(coder, number, np.abs(previous) + np.abs(similar), line)
        lines[number] = nonzero
        for sign, sign_counts in enumerate(counts, start=-1):
            selected = nonzero
            if len(counts) > 1:
                selected = nonzero & (np.sign(previous + similar) == sign)
            places = np.flatnonzero(selected)
            known = None if line is None else line[places] - 1
            lines[number, places] = 1 + code_adaptively(coder, sign_counts, len(places), known)
    return grid.from_lines(lines)
