"""Constants as levels: integers that count the steps between a value and 0, which `levels` codes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lightexp.core.tflite_graph import ConstantSpan
from lightexp.export.coder import UNIT, Ints
from lightexp.export.levels import MAX_COUNT, MAX_LEVEL
from lightexp.export.parameters import LATTICE, LEVELS, PRODUCT, Bits, CodingParameters, round_share

_MIN_ZEROS = 16  # a value in so many must be 0
SMALL = 40_000  # values; of larger constants only one order is tried
_MAX_LAG = 256  # lines
_MAX_PRODUCT_ERROR = 4  # float32 values around the ratio that are tried as a factor


def list_scans(
    values: Bits, span: ConstantSpan, others: Sequence[ConstantSpan] = ()
) -> list[tuple[CodingParameters, Bits]]:
    """Return the ways of coding values as levels that are worth trying; none for constants that are not sparse.

    Args:
        values: The bit patterns.
        span: The constant's place, shape and type.
        others: The file's constants, which show what a matrix reads: a layer's outputs or an image. Defaults to none.
    """
    nonzero = int(np.count_nonzero(values))
    if not 0 < nonzero <= len(values) * (1 - 1 / _MIN_ZEROS) or len(values) > MAX_COUNT:
        return []
    share = round_share(min(nonzero * UNIT // len(values), UNIT - 1))
    parameters = CodingParameters(0, len(values), span.width, int(span.floats), LEVELS, share=share)
    codebook: Bits = np.zeros(1, values.dtype)
    if span.width != 8 or span.floats:
        codebook = np.unique(values)
        if len(codebook) > MAX_LEVEL or span.width < 8:
            return []
        lattice = _find_lattice(values, parameters, codebook)
        parameters = lattice or replace(parameters, codebook_size=len(codebook))
        codebook = codebook[:1] if lattice else codebook
    scans = _list_orders(parameters, span.shape, find_levels(parameters, codebook, values), others)
    return [(scan, codebook) for scan in scans]


def _find_lattice(values: Bits, parameters: CodingParameters, codebook: Bits) -> CodingParameters | None:
    """Return parameters if the values are multiples of the one that is next to 0."""
    if parameters.width != 32 or not parameters.floats or len(codebook) < 3:
        return None
    factor = np.abs(codebook[1:].view(np.float32)).min()
    with np.errstate(all="ignore"):
        multiples = np.rint(codebook.view(np.float32) / factor)
    if not np.abs(multiples).max() <= MAX_LEVEL:  # or NaN
        return None
    lattice = replace(parameters, kind=LATTICE, factor=int(factor.view(np.uint32)))
    return lattice if np.array_equal(restore_levels(lattice, codebook, multiples), codebook) else None


def find_levels(parameters: CodingParameters, codebook: Bits, values: Bits) -> Ints:
    """Return the levels of values."""
    if parameters.kind == LATTICE:
        factor = np.uint32(parameters.factor).view(np.float32)
        levels: Ints = np.rint(values.view(np.float32) / factor).astype(np.int32)
        return levels
    if not parameters.codebook_size:
        return values.view(np.int8).astype(np.int32)
    return list_levels(parameters, codebook)[np.searchsorted(codebook, values)]


def list_levels(parameters: CodingParameters, codebook: Bits) -> Ints:
    """Return the level of each value of a codebook, whose first value is 0: positive ones rise, negative ones fall."""
    positive = int(np.count_nonzero(codebook >> codebook.dtype.type(parameters.width - 1) == 0))
    above, below = np.arange(positive), np.arange(1, len(codebook) - positive + 1)
    return np.concatenate([above, -below if parameters.floats else -below[::-1]]).astype(np.int32)


def restore_levels(parameters: CodingParameters, codebook: Bits, levels: Ints) -> Bits:
    """Return the bit patterns that levels stand for."""
    if parameters.kind == LATTICE:
        factor = np.uint32(parameters.factor).view(np.float32)
        products = levels.astype(np.float32) * factor + np.float32(0)
        return products.astype("<f4").view("<u4")
    if not parameters.codebook_size:
        return levels.astype(np.int8).view(np.uint8)
    table: NDArray[np.unsignedinteger] = np.zeros(2 * MAX_LEVEL + 2, codebook.dtype)
    table[list_levels(parameters, codebook)] = codebook  # negative levels count from the end
    return table[levels]


def _list_orders(
    parameters: CodingParameters, shape: tuple[int, ...], levels: Ints, others: Sequence[ConstantSpan]
) -> Iterator[CodingParameters]:
    """Yield orders of coding that are worth trying."""
    count = parameters.count
    arrangement = (1, 1, count, 1)
    if len(shape) == 4:
        arrangement = (shape[0], shape[1] * shape[2], shape[3], shape[2])
    elif len(shape) > 1 and shape[0] and count % shape[0] == 0:
        arrangement = _arrange_matrix(levels.reshape(shape[0], -1), others)
    outputs, taps, inputs, row = arrangement
    if outputs * taps * inputs != count:
        outputs, taps, inputs, row = 1, 1, count, 1
    scanned = replace(parameters, outputs=outputs, taps=taps, inputs=inputs, row=row)
    yield scanned
    if outputs > 1 and count <= SMALL:
        yield replace(scanned, outputs_first=1)


def _arrange_matrix(levels: Ints, others: Sequence[ConstantSpan]) -> tuple[int, int, int, int]:
    """Return outputs, taps, inputs and taps in a row: a square image, or where the signs of inputs agree most."""
    outputs, inputs = levels.shape
    if (2, inputs) not in {(len(other.shape), other.shape[0]) for other in others if other.shape}:
        for channels in sorted({other.shape[0] for other in others if len(other.shape) == 4}, reverse=True):
            side = math.isqrt(inputs // channels)
            if channels > 1 and side > 1 and side * side * channels == inputs:
                return outputs, side * side, channels, side
    signs = np.sign(levels[:: max(1, levels.size >> 18)]).T.astype(np.int8)
    agreement = np.zeros(min(inputs - 1, _MAX_LAG) + 1)
    for lag in range(1, len(agreement)):
        pairs = signs[lag:] * signs[:-lag]
        agreement[lag] = int(pairs.sum()) / np.sqrt(max(1, int(np.count_nonzero(pairs))))
    if len(agreement) < 4 or agreement.max() < 4:  # standard deviations
        return outputs, 1, inputs, 1
    unit = int(agreement[1:].argmax()) + 1
    if agreement[1] >= 4:
        unit = 1
    if inputs % unit or unit == inputs:
        return outputs, 1, inputs, 1
    taps = inputs // unit
    rows = agreement[2 * unit :: unit]
    row = 2 + int(rows.argmax()) if len(rows) and rows.max() >= 4 else 1
    return outputs, taps, unit, min(row, taps)


def find_product(values: Bits, span: ConstantSpan, earlier: list[Bits]) -> CodingParameters | None:
    """Return parameters if the values are an earlier constant's, multiplied by one factor, as scales of biases are."""
    if not span.floats or span.width != 32:
        return None
    numbers = values.view(np.float32)
    for reference in range(len(earlier) - 1, -1, -1):
        other = earlier[reference]
        if len(other) != len(values) or other.dtype != values.dtype or not other[0] or not values[0]:
            continue
        with np.errstate(all="ignore"):
            ratio = numbers[0] / other.view(np.float32)[0]
        if not np.isfinite(ratio) or ratio == 0:
            continue
        middle = int(ratio.view(np.uint32))
        for bits in range(max(middle - _MAX_PRODUCT_ERROR, 1), middle + _MAX_PRODUCT_ERROR + 1):
            parameters = CodingParameters(0, len(values), 32, 1, PRODUCT, factor=bits, reference=reference)
            if np.array_equal(multiply(parameters, earlier), values):
                return parameters
    return None


def multiply(parameters: CodingParameters, earlier: list[Bits]) -> Bits:
    """Return the product of an earlier constant and the factor."""
    with np.errstate(all="ignore"):
        factor = np.uint32(parameters.factor).view(np.float32)
        product: Bits = (earlier[parameters.reference].view("<f4") * factor).astype("<f4").view("<u4")
    return product
