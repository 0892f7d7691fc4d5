"""One constant of a file as symbols: which alphabet, in which order, and what the decoder must be told of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.tflite_graph import ConstantSpan
from lightexp.export.coder import UNIT, Grid, Ints, RangeCoder, SymbolCounts, code_adaptively, code_symbols

Bits = NDArray[np.unsignedinteger[Any]]
CODEBOOK, DIRECT, BYTE_PLANES = range(
    3
)  # a value's symbol: its place among the distinct ones, itself, its bytes one by one
MAX_CODEBOOK_SIZE = 4096
_COMMON = 64  # a value that is at least one in so many is told apart first, as zeros are


@dataclass(frozen=True)
class CodingParameters:
    """How a constant was coded; small integers all.

    Attributes:
        gap: Bytes of the file between the constant before and this one.
        count: Of its values.
        width: Of a value, in bits.
        floats: 1 for floating-point numbers.
        kind: `BOOK`, `ALL` or `PLANES`.
        lines: See `Grid`.
        turned: See `Grid`.
        lag: See `Grid`.
        distinct: Size of the book.
        zero: 1 + the book's place of the value that is told apart first; 0 for none.
        share: Of other values than that, of `UNIT`.
        flat: Bit by bit, of which planes all bytes are alike likely.
    """

    gap: int
    count: int
    width: int
    floats: int
    kind: int
    lines: int = 1
    turned: int = 0
    lag: int = 0
    distinct: int = 0
    zero: int = 0
    share: int = UNIT
    flat: int = 0

    @property
    def grid(self) -> Grid:
        """The order of coding."""
        return Grid(self.lines, self.count // self.lines, bool(self.turned), self.lag)


def unpack_values(raw: bytes, width: int) -> Bits:
    """The bit patterns of `width` bits that bytes hold, the lowest bits of a byte first."""
    if width >= 8:
        return np.frombuffer(raw, f"<u{width // 8}")
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    split = np.frombuffer(raw, np.uint8)[:, None] >> shifts
    return (split & ((1 << width) - 1)).reshape(-1).astype(np.uint8)


def pack_values(values: Bits, width: int) -> bytes:
    """What `patterns` was given."""
    if width < 8:
        shifts = np.arange(0, 8, width, dtype=np.uint8)
        values = np.bitwise_or.reduce(values.astype(np.uint8).reshape(-1, 8 // width) << shifts, axis=1)
    return values.tobytes()


def list_candidates(stored: ConstantSpan, raw: bytes, gap: int) -> Iterator[tuple[CodingParameters, Bits]]:
    """The ways worth trying of coding a constant's values, each with its book."""
    values = unpack_values(raw, stored.width)
    distinct, counts = np.unique(values, return_counts=True)
    basis = CodingParameters(gap, len(values), stored.width, int(stored.floats), CODEBOOK)
    kinds = []
    if stored.width <= 8 and 2 * len(distinct) > 1 << stored.width:
        kinds.append((replace(basis, kind=DIRECT), np.arange(1 << stored.width, dtype=distinct.dtype)))
    elif len(distinct) <= MAX_CODEBOOK_SIZE:
        kinds.append((replace(basis, distinct=len(distinct)), distinct))
    if stored.width >= 8 and len(distinct) > 128:
        kinds.append((replace(basis, kind=BYTE_PLANES), np.zeros(1, distinct.dtype)))
    for notes, book in kinds:
        zero = book[0] if notes.kind == BYTE_PLANES else distinct[counts.argmax()]
        others = np.count_nonzero(values != zero)
        if 0 < others <= len(values) * (1 - 1 / _COMMON):
            place = 1 + int(np.searchsorted(book, zero))
            notes = replace(notes, zero=place, share=int(np.clip(others * UNIT // len(values), 1, UNIT - 1)))
        if notes.kind == BYTE_PLANES:
            notes = replace(notes, flat=_flat(values[values != 0] if notes.zero else values, notes))
        yield from ((order, book) for order in _orders(notes, book, stored.shape, values))


def _flat(values: Bits, notes: CodingParameters) -> int:
    """The planes of which a model would say less than it costs to learn."""
    flat = 0
    for plane, part in enumerate(_planes(values, notes)):
        counts = np.bincount(part, minlength=256)
        entropy = -np.sum(counts * np.log2(np.maximum(counts, 1) / max(len(part), 1)))
        flat |= int(entropy / 8 + 128 > len(part)) << plane
    return flat


def _orders(notes: CodingParameters, book: Bits, shape: tuple[int, ...], values: Bits) -> Iterator[CodingParameters]:
    """All at once, or row by row or column by column of a matrix with and without regard to the lines before."""
    yield notes
    rows = shape[0] if len(shape) > 1 and shape[0] > 1 else notes.count // shape[-1] if shape and shape[-1] else 1
    if notes.count % rows or (notes.kind == BYTE_PLANES and not notes.zero):
        return
    alphabet = _Alphabet(notes, book)
    signs = alphabet.signs[alphabet.symbols(values)]
    for turned, lines in enumerate((rows, notes.count // rows)):
        if 1 < lines <= max_lines(notes.count):
            order = replace(notes, lines=lines, turned=turned)
            yield order
            yield replace(order, lag=_lag(order.grid.of(signs)))


def max_lines(count: int) -> int:
    """How many lines may take their time."""
    return 256 + count // 96


def _lag(signs: Ints) -> int:
    """How far apart lines that are no neighbours are most alike."""
    lags = range(2, min(len(signs) - 1, 256) + 1)
    alike = [np.count_nonzero(signs[lag:] * signs[:-lag] > 0) / (len(signs) - lag) for lag in lags]
    return 2 + int(np.argmax(alike)) if alike else 1


class _Alphabet:
    """The symbols of a constant: 0 is the value that is told apart first, then comes the book."""

    def __init__(self, notes: CodingParameters, book: Bits) -> None:
        self._zero = book[notes.zero - 1] if notes.zero else None
        self._book, self._planes = book, notes.kind == BYTE_PLANES
        self.values = np.concatenate([book[max(notes.zero - 1, 0)][None], book])
        self.signs = np.where(self.values >> (notes.width - 1), -1, 1).astype(np.int8)
        self.signs[0] = 0

    def symbols(self, values: Bits) -> Ints:
        symbols = np.ones(len(values), np.int32)
        if not self._planes:
            symbols += np.searchsorted(self._book, values).astype(np.int32)
        if self._zero is not None:
            symbols[values == self._zero] = 0
        return symbols


def code_constant(
    coder: RangeCoder, models: SymbolCounts, notes: CodingParameters, book: Bits, given: Bits | None
) -> Bits:
    """Codes a constant.

    Args:
        coder: Writes or reads.
        models: What earlier constants have taught; learns.
        notes: How.
        book: The distinct values in order, where it is by them.
        given: The bit patterns `(count,)`, for the writer.

    Returns:
        The bit patterns.
    """
    alphabet = _Alphabet(notes, book)
    contexts = 3 if notes.lag else 1
    size = len(alphabet.values) - 1
    if notes.kind == DIRECT:
        counts = [models.begin((notes.width, contexts, context), size) for context in range(contexts)]
    else:
        counts = [np.ones(size, np.int64) for _ in range(contexts if notes.kind == CODEBOOK else 0)]
    symbols = None if given is None else alphabet.symbols(given)
    symbols = code_symbols(coder, notes.grid, notes.share, alphabet.signs, counts, symbols)
    values = alphabet.values[symbols]
    if notes.kind == BYTE_PLANES:
        others = np.flatnonzero(symbols)
        parts = None if given is None else list(_planes(given[others], notes))
        found = np.zeros(len(others), values.dtype)
        for plane in range(notes.width // 8):
            part = None if parts is None else parts[plane]
            if notes.flat >> plane & 1:
                part = coder.symbols(np.ones(256, np.int64), len(others), part)
            else:
                part = code_adaptively(coder, models.begin((notes.width, notes.floats, -plane), 256), len(others), part)
            found |= part.astype(values.dtype) << values.dtype.type(8 * plane)
        values[others] = _rotated(found, notes, back=True)
    return values


def _planes(values: Bits, notes: CodingParameters) -> Iterator[Ints]:
    """The bytes of values, lowest first; a float's exponent has come to the top, its sign to the bottom."""
    turned = _rotated(values, notes)
    for plane in range(notes.width // 8):
        yield ((turned >> turned.dtype.type(8 * plane)) & turned.dtype.type(255)).astype(np.int32)


def _rotated(values: Bits, notes: CodingParameters, back: bool = False) -> Bits:
    """Bit patterns of floats rotated to the left by one, or back."""
    one, rest = values.dtype.type(1), values.dtype.type(notes.width - 1)
    if not notes.floats:
        return values
    return values >> one | values << rest if back else values << one | values >> rest
