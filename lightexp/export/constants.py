"""Code one constant of a `.tflite` file as symbols: the alphabet, the order, and the parameters a decoder needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.tflite_graph import ConstantSpan
from lightexp.export.coder import UNIT, Grid, Ints, RangeCoder, SymbolCounts, code_adaptively, code_tensor

Bits = NDArray[np.unsignedinteger[Any]]
CODEBOOK, DIRECT, BYTE_PLANES = range(3)
"""What a value's symbol is: its place in a codebook of distinct values, the value itself, or its bytes one by one."""
MAX_CODEBOOK_SIZE = 4096
_COMMON = 64  # a value that is at least one in so many gets symbol 0, as zeros do
_MAX_LAG = 256  # lines


@dataclass(frozen=True)
class CodingParameters:
    """How a constant is coded; small integers, in the order in which the file stores them.

    Attributes:
        gap: Bytes of the file between the constant before and this one.
        count: Number of values.
        width: Bits of a value.
        floats: 1 for floating-point numbers, else 0.
        kind: `CODEBOOK`, `DIRECT` or `BYTE_PLANES`.
        lines: See `Grid`.
        by_column: See `Grid`.
        lag: See `Grid`.
        codebook_size: Number of values in the codebook.
        zero: 1 + the place in the codebook of the value with symbol 0; 0 if there is none.
        share: Share of other values than that, in units of 1 / `UNIT`.
        uniform_planes: Bit by bit, the byte planes in which all bytes count as equally likely.
    """

    gap: int
    count: int
    width: int
    floats: int
    kind: int
    lines: int = 1
    by_column: int = 0
    lag: int = 0
    codebook_size: int = 0
    zero: int = 0
    share: int = UNIT
    uniform_planes: int = 0

    @property
    def grid(self) -> Grid:
        """The order of coding."""
        return Grid(self.lines, self.count // self.lines, bool(self.by_column), self.lag)


def unpack_values(raw: bytes, width: int) -> Bits:
    """Return the bit patterns of `width` bits that bytes hold, the lowest bits of a byte first."""
    if width >= 8:
        return np.frombuffer(raw, f"<u{width // 8}")
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    shifted = np.frombuffer(raw, np.uint8)[:, None] >> shifts
    return (shifted & ((1 << width) - 1)).reshape(-1).astype(np.uint8)


def pack_values(values: Bits, width: int) -> bytes:
    """Return the bytes that `unpack_values` was called with."""
    if width < 8:
        shifts = np.arange(0, 8, width, dtype=np.uint8)
        values = np.bitwise_or.reduce(values.astype(np.uint8).reshape(-1, 8 // width) << shifts, axis=1)
    return values.tobytes()


def list_candidates(span: ConstantSpan, raw: bytes, gap: int) -> Iterator[tuple[CodingParameters, Bits]]:
    """Yield the ways of coding a constant that are worth trying, each with its codebook.

    Args:
        span: The constant's place and type.
        raw: Its bytes.
        gap: Bytes of the file between the constant before and this one.
    """
    values = unpack_values(raw, span.width)
    distinct, counts = np.unique(values, return_counts=True)
    common = CodingParameters(gap, len(values), span.width, int(span.floats), CODEBOOK)
    kinds = []
    if span.width <= 8 and 2 * len(distinct) > 1 << span.width:
        kinds.append((replace(common, kind=DIRECT), np.arange(1 << span.width, dtype=distinct.dtype)))
    elif len(distinct) <= MAX_CODEBOOK_SIZE:
        kinds.append((replace(common, codebook_size=len(distinct)), distinct))
    if span.width >= 8 and len(distinct) > 128:
        kinds.append((replace(common, kind=BYTE_PLANES), np.zeros(1, distinct.dtype)))
    for parameters, codebook in kinds:
        zero = codebook[0] if parameters.kind == BYTE_PLANES else distinct[counts.argmax()]
        others = np.count_nonzero(values != zero)
        if 0 < others <= len(values) * (1 - 1 / _COMMON):
            place = 1 + int(np.searchsorted(codebook, zero))
            share = int(np.clip(others * UNIT // len(values), 1, UNIT - 1))
            parameters = replace(parameters, zero=place, share=share)
        if parameters.kind == BYTE_PLANES:
            coded = values[values != 0] if parameters.zero else values
            parameters = replace(parameters, uniform_planes=_find_uniform_planes(coded, parameters))
        for ordered in _list_orders(parameters, codebook, span.shape, values):
            yield ordered, codebook


def _find_uniform_planes(values: Bits, parameters: CodingParameters) -> int:
    """Return, bit by bit, the planes whose model would save less than it costs to learn (about 128 bytes)."""
    uniform = 0
    for plane, part in enumerate(_split_planes(values, parameters)):
        counts = np.bincount(part, minlength=256)
        entropy = -np.sum(counts * np.log2(np.maximum(counts, 1) / max(len(part), 1)))
        uniform |= int(entropy / 8 + 128 > len(part)) << plane
    return uniform


def _list_orders(
    parameters: CodingParameters, codebook: Bits, shape: tuple[int, ...], values: Bits
) -> Iterator[CodingParameters]:
    """Yield orders of coding: all values at once; rows or columns of a matrix, with and without earlier lines."""
    yield parameters
    rows = 1
    if len(shape) > 1 and shape[0] > 1:
        rows = shape[0]
    elif shape and shape[-1]:
        rows = parameters.count // shape[-1]
    if parameters.count % rows or (parameters.kind == BYTE_PLANES and not parameters.zero):
        return
    alphabet = _Alphabet(parameters, codebook)
    signs = alphabet.signs[alphabet.to_symbols(values)]
    for by_column, lines in enumerate((rows, parameters.count // rows)):
        if 1 < lines <= max_lines(parameters.count):
            order = replace(parameters, lines=lines, by_column=by_column)
            yield order
            yield replace(order, lag=_find_lag(order.grid.to_lines(signs)))


def max_lines(count: int) -> int:
    """Return the largest number of lines for `count` values, which limits the time of coding."""
    return 256 + count // 96


def _find_lag(signs: Ints) -> int:
    """Return the distance, from 2, at which lines `(lines, length)` of signs agree most; 1 for too few lines."""
    lags = range(2, min(len(signs) - 1, _MAX_LAG) + 1)
    agreement = [np.count_nonzero(signs[lag:] * signs[:-lag] > 0) / (len(signs) - lag) for lag in lags]
    return 2 + int(np.argmax(agreement)) if agreement else 1


class _Alphabet:
    """The symbols of a constant: 0 for the most common value if it has a symbol, then the codebook from 1.

    Attributes:
        values: The value of each symbol.
        signs: Sign of each symbol's value, 0 for symbol 0.
    """

    def __init__(self, parameters: CodingParameters, codebook: Bits) -> None:
        self._zero = codebook[parameters.zero - 1] if parameters.zero else None
        self._codebook, self._has_planes = codebook, parameters.kind == BYTE_PLANES
        self.values = np.concatenate([codebook[max(parameters.zero - 1, 0)][None], codebook])
        self.signs = np.where(self.values >> (parameters.width - 1), -1, 1).astype(np.int8)
        self.signs[0] = 0

    def to_symbols(self, values: Bits) -> Ints:
        """Return the symbol of each value; 1 for all but 0 where the bytes are coded separately."""
        symbols = np.ones(len(values), np.int32)
        if not self._has_planes:
            symbols += np.searchsorted(self._codebook, values).astype(np.int32)
        if self._zero is not None:
            symbols[values == self._zero] = 0
        return symbols


def code_constant(
    coder: RangeCoder, models: SymbolCounts, parameters: CodingParameters, codebook: Bits, values: Bits | None
) -> Bits:
    """Write or read a constant.

    Args:
        coder: The stream.
        models: What earlier constants have taught; updated.
        parameters: How to code.
        codebook: The distinct values in rising order; all values for `DIRECT`, one 0 for `BYTE_PLANES`.
        values: The bit patterns `(count,)`, or None to read them.

    Returns:
        The bit patterns.
    """
    alphabet = _Alphabet(parameters, codebook)
    contexts = 3 if parameters.lag else 1
    size = len(alphabet.values) - 1
    counts: list[NDArray[np.int64]] = []
    if parameters.kind == DIRECT:
        counts = [models.begin((parameters.width, contexts, context), size) for context in range(contexts)]
    elif parameters.kind == CODEBOOK:
        counts = [np.ones(size, np.int64) for _ in range(contexts)]
    symbols = None if values is None else alphabet.to_symbols(values)
    symbols = code_tensor(coder, parameters.grid, parameters.share, alphabet.signs, counts, symbols)
    coded = alphabet.values[symbols]
    if parameters.kind == BYTE_PLANES:
        places = np.flatnonzero(symbols)
        known = None if values is None else values[places]
        coded[places] = _code_planes(coder, models, parameters, len(places), known)
    return coded


def _code_planes(
    coder: RangeCoder, models: SymbolCounts, parameters: CodingParameters, count: int, values: Bits | None
) -> Bits:
    """Write or read `count` values byte by byte."""
    dtype = np.dtype(f"<u{parameters.width // 8}")
    planes = None if values is None else list(_split_planes(values, parameters))
    rotated: Bits = np.zeros(count, dtype)
    for plane in range(parameters.width // 8):
        part = None if planes is None else planes[plane]
        if parameters.uniform_planes >> plane & 1:
            part = coder.code_with_counts(np.ones(256, np.int64), count, part)
        else:
            counts = models.begin((parameters.width, parameters.floats, -plane), 256)
            part = code_adaptively(coder, counts, count, part)
        rotated |= part.astype(dtype) << dtype.type(8 * plane)
    return _rotate_right(rotated, parameters)


def _split_planes(values: Bits, parameters: CodingParameters) -> Iterator[Ints]:
    """Yield the bytes of values, lowest first; of floats rotated so that the highest byte is the exponent."""
    rotated = _rotate_left(values, parameters)
    for plane in range(parameters.width // 8):
        yield ((rotated >> rotated.dtype.type(8 * plane)) & rotated.dtype.type(255)).astype(np.int32)


def _rotate_left(values: Bits, parameters: CodingParameters) -> Bits:
    """Rotate floats' bit patterns by one, which moves the sign to the bottom; return integers unchanged."""
    if not parameters.floats:
        return values
    by_one, by_rest = values.dtype.type(1), values.dtype.type(parameters.width - 1)
    return values << by_one | values >> by_rest


def _rotate_right(values: Bits, parameters: CodingParameters) -> Bits:
    """Undo `_rotate_left`."""
    if not parameters.floats:
        return values
    by_one, by_rest = values.dtype.type(1), values.dtype.type(parameters.width - 1)
    return values >> by_one | values << by_rest
