"""Code one constant of a `.tflite` file as symbols: the alphabet, the order, and the parameters a decoder needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lightexp.core.tflite_graph import ConstantSpan
from lightexp.export import sparse
from lightexp.export.coder import (
    MAX_SCALE,
    UNIT,
    Ints,
    RangeCoder,
    SymbolCounts,
    code_adaptively,
    code_tensor,
    make_bell_counts,
)
from lightexp.export.levels import LevelModels, code_levels
from lightexp.export.numbers import code_numbers
from lightexp.export.parameters import (
    BYTE_PLANES,
    CODEBOOK,
    DIRECT,
    LATTICE,
    LEVELS,
    MAX_CODEBOOK_SIZE,
    NUMBERS,
    PRODUCT,
    REPEATED,
    Bits,
    CodingParameters,
    max_lines,
)

_COMMON = 64  # a value that is at least one in so many gets symbol 0, as zeros do
_MAX_LAG = 256  # lines


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


class Learned:
    """What earlier constants have taught.

    Attributes:
        counts: Of symbols.
        levels: Of levels.
        values: Of all earlier constants.
    """

    def __init__(self, earlier: Learned | None = None) -> None:
        """Start with what another has learnt, which is not changed."""
        self.counts: SymbolCounts = SymbolCounts(earlier.counts if earlier else None)
        self.levels: LevelModels = LevelModels(earlier.levels if earlier else None)
        self.values: list[Bits] = list(earlier.values) if earlier else []


def code(
    coder: RangeCoder, learned: Learned, parameters: CodingParameters, codebook: Bits | None, values: Bits | None
) -> Bits:
    """Write or read a constant.

    Args:
        coder: The stream.
        learned: What earlier constants have taught; updated.
        parameters: How to code.
        codebook: The distinct values in rising order; all values for `DIRECT`, one 0 for no codebook; None to
            read them.
        values: The bit patterns `(count,)`, or None to read them.

    Returns:
        The bit patterns.
    """
    mixers, width, floats = learned.levels.mixers, parameters.width, parameters.floats
    if codebook is None or (parameters.codebook_size and values is not None):
        codebook = code_numbers(
            coder, mixers, width, floats, parameters.codebook_size if codebook is None else codebook
        )
    if parameters.kind == PRODUCT:
        coded = sparse.multiply(parameters, learned.values)
    elif parameters.kind in (LEVELS, LATTICE):
        levels = None if values is None else sparse.find_levels(parameters, codebook, values)
        levels = code_levels(coder, learned.levels, parameters.scan, parameters.share, levels)
        coded = sparse.restore_levels(parameters, codebook, levels)
    elif parameters.kind == REPEATED:
        coded = np.full(parameters.count, parameters.factor, f"<u{width // 8}")
    elif parameters.kind == NUMBERS:
        known = parameters.count if values is None else values
        coded = code_numbers(coder, mixers, width, floats, known)
    else:
        coded = code_constant(coder, learned.counts, parameters, codebook, values)
    learned.values.append(coded)
    return coded


def list_candidates(
    span: ConstantSpan, values: Bits, gap: int, earlier: list[Bits], others: Sequence[ConstantSpan]
) -> Iterator[tuple[CodingParameters, Bits]]:
    """Yield the ways of coding a constant that are worth trying, each with its codebook.

    Args:
        span: The constant's place and type.
        values: Its bit patterns.
        gap: Bytes of the file between the constant before and this one.
        earlier: The constants before.
        others: See `sparse.list_scans`.
    """
    if span.width >= 16 and (values == values[0]).all():
        repeated = CodingParameters(gap, len(values), span.width, 0, REPEATED, factor=int(values[0]))
        yield repeated, np.zeros(1, values.dtype)
        return
    product = sparse.find_product(values, span, earlier)
    if product:
        yield replace(product, gap=gap), np.zeros(1, values.dtype)
        return
    scans = sparse.list_scans(values, span, others)
    for parameters, codebook in scans:
        yield replace(parameters, gap=gap), codebook
    if span.width >= 16 and len(values) <= sparse.SMALL:
        yield CodingParameters(gap, len(values), span.width, int(span.floats), NUMBERS), np.zeros(1, values.dtype)
    if not scans or len(values) <= sparse.SMALL:
        yield from _list_counted(span, values, gap)


def _list_counted(span: ConstantSpan, values: Bits, gap: int) -> Iterator[tuple[CodingParameters, Bits]]:
    """Yield the ways of coding a constant by counts of its symbols or bytes."""
    distinct, counts = np.unique(values, return_counts=True)
    common = CodingParameters(gap, len(values), span.width, int(span.floats), CODEBOOK)
    kinds = []
    if span.width <= 8 and 2 * len(distinct) > 1 << span.width:
        direct = replace(common, kind=DIRECT, scale=_find_scale(values) if span.width == 8 else 0)
        kinds.append((direct, np.arange(1 << span.width, dtype=distinct.dtype)))
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


def _find_scale(values: Bits) -> int:
    """Return the scale of the distribution that makes bytes cheapest."""
    seen, costs = np.bincount(values, minlength=256), list[float]()
    for scale in range(1, MAX_SCALE + 1):
        counts = make_bell_counts(scale)
        costs.append(float(-(seen * np.log2(counts / counts.sum())).sum()))
    return 1 + int(np.argmin(costs))


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
    if parameters.scale:
        counts = [make_bell_counts(parameters.scale) for _ in range(contexts)]
    elif parameters.kind == DIRECT:
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
