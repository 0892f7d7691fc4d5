"""Code bytes as literals and as copies of a dictionary or of earlier bytes, for files that differ in a few places.

After a difference, a copy mostly goes on as far back as before, or a few bytes nearer or farther, which costs less than
a distance does. All probabilities are ratios of counts.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import numpy as np
from numpy.typing import NDArray

from lightexp.export.coder import UNIT, RangeCoder, code_adaptively

_SHORTEST = 2  # bytes of a copy
_SHORTEST_SEARCHED = 4  # bytes of a copy from anywhere
_DISTANCES = 4  # that are remembered
_NEAR = 64  # bytes around the last distance
_CHUNK = 64  # bytes compared at once
# About what literals and copies cost, in bits.
_LITERAL_BITS, _RETURN_BITS, _COPY_BITS, _NEAR_BITS, _FAR_BITS = 8, 5, 6, 18, 24


def code_bytes(coder: RangeCoder, dictionary: bytes, size: int, plain: bytes | None) -> bytes:
    """Write or read bytes.

    Args:
        coder: The stream.
        dictionary: What most of the bytes are copied from.
        size: Their number.
        plain: The bytes, or None to read them.

    Returns:
        The bytes.

    Raises:
        ValueError: If no encoder could have written what is read.
    """
    buffer, end = bytearray(dictionary), len(dictionary) + size
    known = None if plain is None else dictionary + plain
    model, is_copy = _Model(coder, len(dictionary)), False
    while len(buffer) < end:
        at = len(buffer)
        copy = None if known is None else _find_copy(known, at, model.distances)
        context = "copy", model.kind if is_copy else None
        is_copy = bool(model.code_bit(context, None if known is None else copy is not None))
        if not is_copy:
            model.code_literal(buffer, None if known is None else known[at])
            continue
        distance = model.code_distance(copy[0] if copy else None)
        length = _SHORTEST + model.code_number(("length", model.kind), copy[1] - _SHORTEST if copy else None)
        if not 0 < distance <= at or at + length > end:
            raise ValueError("it copies what is not there")
        pattern = buffer[at - distance : at - distance + length]
        buffer += (pattern * (length // len(pattern) + 1))[:length]
    return bytes(buffer[len(dictionary) :])


class _Model:
    """Adaptive models of what a copy is.

    Attributes:
        distances: How far back the last copies were, the last one first.
        kind: Of the last copy: 0 as far back as the one before, 1 as the one before that, or 2.
    """

    def __init__(self, coder: RangeCoder, distance: int) -> None:
        self._coder = coder
        self._counts: dict[Hashable, tuple[int, int]] = {}
        self._literals: NDArray[np.int64] = np.ones(256, np.int64)
        self.distances, self.kind = [max(distance, 1)], 0

    def code_bit(self, context: Hashable, bit: bool | None) -> int:
        """Write or read a bit whose probability was learnt in its context."""
        ones, total = self._counts.get(context, (1, 2))
        share = np.array([min(max(ones * UNIT // total, 1), UNIT - 1)])
        coded = int(self._coder.code_bits(share, None if bit is None else np.array([bit], np.bool_))[0])
        self._counts[context] = ones + 2 * coded, total + 2
        return coded

    def code_literal(self, buffer: bytearray, byte: int | None) -> None:
        """Write or read a byte that is not copied, and append it.

        Offsets of 4 bytes often all differ by the same from those of the dictionary.
        """
        expected, is_expected = _expect(buffer, len(buffer), self.distances[0]), 0
        if expected is not None:
            is_expected = self.code_bit("expected", None if byte is None else byte == expected)
        if expected is None or not is_expected:
            known = None if byte is None else np.array([byte], np.int32)
            expected = int(code_adaptively(self._coder, self._literals, 1, known)[0])
        buffer.append(expected)

    def code_number(self, context: Hashable, number: int | None) -> int:
        """Write or read a number from 0: the length of its successor in bits, then the bits below the highest."""
        successor = None if number is None else number + 1
        length, value = 1, 1
        while self.code_bit((context, length), None if successor is None else successor >> length != 0):
            length += 1
            if length > UNIT.bit_length() + 8:
                raise ValueError("a number is too large")
        for place in reversed(range(length - 1)):
            bit = None if successor is None else successor >> place & 1 != 0
            value = 2 * value + self.code_bit((context, length, place), bit)
        return value - 1

    def code_distance(self, distance: int | None) -> int:
        """Write or read a distance: one of the last ones, one near the last one, or any."""
        kind = None if distance is None else self._classify(distance)
        coded = self.code_number(("kind", self.kind), kind)
        self.kind = min(coded, 2)
        if coded < len(self.distances):
            result = self.distances.pop(coded)
        elif coded == _DISTANCES:
            difference = None if distance is None else distance - self.distances[0]
            is_farther = self.code_bit("farther", None if difference is None else difference > 0)
            amount = 1 + self.code_number("near", None if difference is None else abs(difference) - 1)
            result = self.distances[0] + (amount if is_farther else -amount)
        else:
            result = self.code_number("far", distance)
        self.distances = [result, *self.distances][:_DISTANCES]
        return result

    def _classify(self, distance: int) -> int:
        if distance in self.distances:
            return self.distances.index(distance)
        return _DISTANCES + (abs(distance - self.distances[0]) > _NEAR)


def _expect(known: bytes | bytearray, at: int, distance: int) -> int | None:
    """Return the byte that differs from that so far back as the bytes 4 before do; None if these are the same."""
    if at - distance < 4:
        return None
    difference = known[at - 4] - known[at - 4 - distance]
    return (known[at - distance] + difference) & 255 if difference else None


def _find_copy(known: bytes, at: int, distances: list[int]) -> tuple[int, int] | None:
    """Return the distance and the length of the best copy; None if a literal is better."""
    best, saved = None, 0
    for distance, length, cost in _list_copies(known, at, distances):
        saving = _measure_staying(known, at, distances[0], length) - cost
        if length >= _SHORTEST and saving > saved:
            best, saved = (distance, length), saving
    length = _measure_match(known, at, distances[0])
    return best or ((distances[0], length) if length >= _SHORTEST else None)


def _measure_staying(known: bytes, at: int, distance: int, length: int) -> int:
    """Return about how many bits bytes take by literals, and copies that are as far back as the last one."""
    bits, is_copy = 0, False
    for place in range(at, at + min(length, _NEAR)):
        was_copy, is_copy = is_copy, known[place] == known[place - distance]
        if not is_copy:
            bits += 2 if known[place] == _expect(known, place, distance) else _LITERAL_BITS
        elif not was_copy:
            bits += _RETURN_BITS
    return bits


def _list_copies(known: bytes, at: int, distances: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield distances, lengths and costs of copies at a place."""
    for place, distance in enumerate(distances[1:]):
        yield distance, _measure_match(known, at, distance), _COPY_BITS + 2 * place
    pattern, last = known[at : at + _SHORTEST_SEARCHED], at - distances[0]
    near = known.find(pattern, max(last - _NEAR, 0), min(last + _NEAR, at - 1) + _SHORTEST_SEARCHED)
    if 0 <= near < at:
        yield at - near, _measure_match(known, at, at - near), _NEAR_BITS
    start = known.rfind(pattern, 0, at)
    while start >= 0:
        length = _measure_match(known, at, at - start)
        yield at - start, length, _FAR_BITS
        if at + length >= len(known):
            return
        start = known.rfind(known[at : at + length + 1], 0, at)


def _measure_match(known: bytes, at: int, distance: int) -> int:
    """Return how many bytes are the same as those so far back."""
    length, limit = 0, len(known) - at if distance <= at else 0
    while length < limit:
        start, end = at + length, at + length + _CHUNK
        if known[start:end] != known[start - distance : end - distance]:
            break
        length += _CHUNK
    while length < limit and known[at + length] == known[at + length - distance]:
        length += 1
    return min(length, limit)
