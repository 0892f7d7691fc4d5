"""Code numbers that hardly repeat, such as scales and biases: signs and exponents adaptively, the rest as it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightexp.export.coder import UNIT, Ints, RangeCoder
from lightexp.export.mixing import BitMixer, Mixers, Question
from lightexp.export.parameters import Bits

_EXPONENT_BITS = {(16, 1): 5, (32, 1): 8, (64, 1): 11}
_SIZES = (1 << 12, 1 << 13)  # decisions of an exponent from its highest bit; with the sign
_FIRST, _LONGEST = 16, 4096  # values that are coded at once


def code_numbers(coder: RangeCoder, mixers: Mixers, width: int, floats: int, values: Bits | int) -> Bits:
    """Write or read numbers: signs, exponents (of integers: their lengths in bits), and the bits below.

    Args:
        coder: The stream.
        mixers: What earlier numbers have taught; updated.
        width: Bits of a number.
        floats: 1 for floating-point numbers, else 0.
        values: The bit patterns `(count,)`, or their number to read them.

    Returns:
        The bit patterns.
    """
    name = f"numbers {width} {floats}"
    mixer = mixers[name] = BitMixer(_SIZES, (1,), (100,), UNIT // 2, earlier=mixers.get(name), remembers=True)
    count = values if isinstance(values, int) else len(values)
    exponent_bits = _EXPONENT_BITS.get((width, floats), width.bit_length())
    known = None if isinstance(values, int) else _split(values, width, exponent_bits, floats)
    parts, start = [], 0
    while start < count:
        end = min(count, start + min(max(start, _FIRST), _LONGEST))
        part = None if known is None else [field[start:end] for field in known]
        signs, exponents = _code_exponents(coder, mixer, exponent_bits, end - start, part)
        lengths = exponents * 0 + width - 1 - exponent_bits if floats else np.maximum(exponents - 1, 0)
        bits = _code_plain(coder, lengths, None if part is None else part[2])
        parts.append(_join(signs, exponents, bits, width, exponent_bits, floats))
        start = end
    numbers: Bits = np.concatenate(parts).astype(f"<u{max(width, 8) // 8}")
    return numbers


def _split(values: Bits, width: int, exponent_bits: int, floats: int) -> list[NDArray[np.uint64]]:
    """Return signs, exponents, and the bits below."""
    wide = values.astype(np.uint64)
    signs = wide >> np.uint64(width - 1)
    if floats:
        below = np.uint64(width - 1 - exponent_bits)
        return [signs, (wide >> below) & np.uint64((1 << exponent_bits) - 1), wide & np.uint64((1 << int(below)) - 1)]
    mask = np.uint64((1 << width) - 1)
    sizes = np.where(signs == 1, ~wide & mask, wide)  # of a negative number: that of its complement
    lengths = np.zeros(len(values), np.uint64)
    for bit in range(width):
        lengths += sizes >> np.uint64(bit) != 0
    top = np.where(lengths > 0, np.uint64(1) << np.maximum(lengths, 1) - np.uint64(1), np.uint64(0))
    return [signs, lengths, sizes - top]


def _join(signs: Ints, exponents: Ints, bits: Bits, width: int, exponent_bits: int, floats: int) -> Bits:
    """Undo `_split`."""
    signs, exponents = signs.astype(np.uint64), exponents.astype(np.uint64)
    if floats:
        return (signs << np.uint64(width - 1) | exponents << np.uint64(width - 1 - exponent_bits) | bits).view(
            np.uint64
        )
    top = np.where(exponents > 0, np.uint64(1) << np.maximum(exponents, 1) - np.uint64(1), np.uint64(0))
    return np.where(signs == 1, ~(bits + top) & np.uint64((1 << width) - 1), bits + top)


def _code_exponents(
    coder: RangeCoder, mixer: BitMixer, exponent_bits: int, count: int, known: list[NDArray[np.uint64]] | None
) -> tuple[Ints, Ints]:
    """Write or read signs and exponents, bit by bit from the highest."""
    zero = np.zeros(count, np.int64)
    signs = mixer.code(coder, Question([zero, zero], [zero]), None if known is None else known[0] == 1) * 1
    node = zero + 1
    for bit in reversed(range(exponent_bits)):
        question = Question([node, 2 * node + signs], [zero])
        part = None if known is None else known[1] >> np.uint64(bit) & np.uint64(1) == 1
        node = 2 * node + mixer.code(coder, question, part)
    return signs, node - (1 << exponent_bits)


def _code_plain(coder: RangeCoder, lengths: Ints, known: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
    """Write or read numbers of given lengths in bits, each bit of which is as likely 0 as 1."""
    bits = np.zeros(len(lengths), np.uint64)
    for bit in range(int(lengths.max(initial=0))):
        live = np.flatnonzero(lengths > bit)
        part = None if known is None else known[live] >> np.uint64(bit) & np.uint64(1) == 1
        coded = coder.code_bits(np.full(len(live), UNIT // 2), part)
        bits[live] |= coded.astype(np.uint64) << np.uint64(bit)
    return bits
