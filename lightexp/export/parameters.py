"""Parameters with which a constant of a `.lxe` file is coded, and their bytes in the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.export.coder import MAX_SCALE, UNIT, Grid
from lightexp.export.levels import MAX_COUNT, Scan
from lightexp.export.packing import CorruptFile

Bits = NDArray[np.unsignedinteger[Any]]
CODEBOOK, DIRECT, BYTE_PLANES, LEVELS, LATTICE, PRODUCT, NUMBERS, REPEATED = range(8)
"""What a value's symbol is: its place in a codebook of distinct values, the value itself, or its bytes one by one; its
distance from 0 in steps along the distinct values, or as a multiple of `factor`; nothing, as it is the product of an
earlier constant and `factor`; its sign, size and remaining bits; nothing, as all
are `factor`."""
MAX_CODEBOOK_SIZE = 4096
_COUNTS = ("count", "lines", "by_column", "lag", "codebook_size", "zero", "share", "uniform_planes")
_SCAN = ("outputs", "taps", "inputs", "row", "outputs_first", "share")
_FIELDS = {
    CODEBOOK: _COUNTS,
    DIRECT: (*_COUNTS, "scale"),
    BYTE_PLANES: _COUNTS,
    LEVELS: (*_SCAN, "codebook_size"),
    LATTICE: (*_SCAN, "factor"),
    PRODUCT: ("count", "reference", "factor"),
    NUMBERS: ("count",),
    REPEATED: ("count", "factor"),
}
# Bytes of the fields that are not written as 7 bits a byte.
_FIXED_BYTES = {(LEVELS, "share"): 1, (LATTICE, "share"): 1, (LATTICE, "factor"): 4, (PRODUCT, "factor"): 4}
_FIELDS_OF_VERSION_1 = ("gap", "count", "width", "floats", "kind", *_COUNTS[1:])


@dataclass(frozen=True)
class CodingParameters:
    """How a constant is coded; small integers.

    Attributes:
        gap: Bytes of the file between the constant before and this one.
        count: Number of values.
        width: Bits of a value.
        floats: 1 for floating-point numbers, else 0.
        kind: `CODEBOOK`, `DIRECT`, `BYTE_PLANES`, `LEVELS`, `LATTICE`, `PRODUCT`, `NUMBERS` or `REPEATED`.
        lines: See `Grid`.
        by_column: See `Grid`.
        lag: See `Grid`.
        codebook_size: Number of values in the codebook; 0 if levels are integers themselves.
        zero: 1 + the place in the codebook of the value with symbol 0; 0 if there is none.
        share: Share of other values than that, in units of 1 / `UNIT`.
        uniform_planes: Bit by bit, the byte planes in which all bytes count as equally likely.
        scale: Of the values' distribution before any is known, see `make_bell_counts`; 0 for none.
        outputs: See `Scan`.
        taps: See `Scan`.
        inputs: See `Scan`.
        row: See `Scan`.
        outputs_first: See `Scan`.
        factor: Bit pattern of a float32, or of the repeated value.
        reference: Place of an earlier constant in the file.
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
    scale: int = 0
    outputs: int = 0
    taps: int = 0
    inputs: int = 0
    row: int = 0
    outputs_first: int = 0
    factor: int = 0
    reference: int = 0

    @property
    def grid(self) -> Grid:
        """The order of coding by counts."""
        return Grid(self.lines, self.count // self.lines, bool(self.by_column), self.lag)

    @property
    def scan(self) -> Scan:
        """The order of coding levels."""
        return Scan(self.outputs, self.taps, self.inputs, self.row, bool(self.outputs_first))

    @property
    def is_valid(self) -> bool:
        """Whether an encoder could have chosen these parameters."""
        common = (
            self.width in (2, 4, 8, 16, 32, 64)
            and self.count > 0
            and self.count * self.width % 8 == 0
            and self.codebook_size <= MAX_CODEBOOK_SIZE
            and 1 <= self.share <= UNIT
            and self.floats <= 1
            and (not self.scale or (self.scale <= MAX_SCALE and self.width == 8))
        )
        if self.kind in (LEVELS, LATTICE):
            has_values = bool(self.codebook_size) or self.width == 8
            is_float32 = self.width == 32 and self.floats == 1
            return (
                common
                and self.share < UNIT
                and self.count <= MAX_COUNT
                and 1 <= self.row <= self.taps
                and self.outputs_first <= 1
                and (is_float32 if self.kind == LATTICE else has_values)
            )
        if self.kind == PRODUCT:
            return common and self.width == 32
        if self.kind in (NUMBERS, REPEATED):
            return common and self.width >= 16
        return (
            common
            and self.kind in (CODEBOOK, DIRECT, BYTE_PLANES)
            and (self.kind != DIRECT or self.width <= 8)
            and (self.kind != BYTE_PLANES or self.width >= 8)
            and 1 <= self.lines <= max_lines(self.count)
            and self.count % self.lines == 0
        )


def max_lines(count: int) -> int:
    """Return the largest number of lines for `count` values, which limits the time of coding."""
    return 256 + count // 96


def serialize(parameters: CodingParameters) -> bytes:
    """Return parameters as bytes: each number 7 bits a byte, lowest first, or as many bytes as `_FIXED_BYTES` says.

    A factor has its own bytes, which the rest of the file often repeats.
    """
    form = parameters.kind | (parameters.width.bit_length() - 2) << 3 | parameters.floats << 6
    serialized = bytearray()
    for number in (parameters.gap, form):
        serialized += serialize_number(number)
    for name in _FIELDS[parameters.kind]:
        size, number = _FIXED_BYTES.get((parameters.kind, name), 0), getattr(parameters, name)
        if name == "share" and size:
            number = _shorten_share(number)
        serialized += number.to_bytes(size, "little") if size else serialize_number(number)
    return bytes(serialized)


def round_share(share: int) -> int:
    """Return a share that takes one byte: its five highest bits, at least 16."""
    return _expand_share(_shorten_share(share))


def _shorten_share(share: int) -> int:
    exponent = max(share.bit_length() - 5, 0)
    return exponent << 4 | max((share >> exponent) - 16, 0)


def _expand_share(byte: int) -> int:
    return (16 + (byte & 15)) << (byte >> 4)


def parse(serialized: bytes, version: int) -> Iterator[tuple[CodingParameters, Bits | None]]:
    """Yield the parameters that `serialize` wrote, one constant after another.

    The codebook is None if the stream has it; in version 1 it follows the parameters as differences.

    Args:
        serialized: Their bytes.
        version: Of the format: 1 or 2.

    Raises:
        CorruptFile: If no encoder could have written them.
    """
    at = 0
    while at < len(serialized):
        if version == 1:
            numbers, at = parse_numbers(serialized, at, len(_FIELDS_OF_VERSION_1))
            parameters = CodingParameters(**dict(zip(_FIELDS_OF_VERSION_1, numbers, strict=True)))
            is_known = parameters.kind in (CODEBOOK, DIRECT, BYTE_PLANES)
        else:
            parameters, at = _parse_parameters(serialized, at)
            is_known = True
        if not (is_known and parameters.is_valid):
            raise CorruptFile("its parameters are not valid")
        dtype = np.dtype(f"<u{max(8, parameters.width) // 8}")
        codebook: Bits | None = None
        if parameters.kind == CODEBOOK and version == 1:
            size = parameters.codebook_size * dtype.itemsize
            codebook = np.cumsum(np.frombuffer(serialized[at : at + size], dtype), dtype=dtype)
            at += size
        elif not parameters.codebook_size:
            codebook = np.arange(1 << parameters.width if parameters.kind == DIRECT else 1).astype(dtype)
        if (parameters.codebook_size if codebook is None else len(codebook)) < max(parameters.zero, 1):
            raise CorruptFile("its parameters end early")
        yield parameters, codebook


def _parse_parameters(serialized: bytes, at: int) -> tuple[CodingParameters, int]:
    (gap, form), at = parse_numbers(serialized, at, 2)
    kind = form & 7
    if kind not in _FIELDS:
        raise CorruptFile("its parameters are not valid")
    names: Sequence[str] = _FIELDS[kind]
    values = dict[str, int]()
    for name in names:
        size = _FIXED_BYTES.get((kind, name), 0)
        if size:
            values[name] = int.from_bytes(serialized[at : at + size], "little")
            at += size
        else:
            (values[name],), at = parse_numbers(serialized, at, 1)
    if kind in (LEVELS, LATTICE):
        values["share"] = _expand_share(values["share"])
        values["count"] = values["outputs"] * values["taps"] * values["inputs"]
    return CodingParameters(gap, width=1 << (form >> 3 & 7) + 1, floats=form >> 6, kind=kind, **values), at


def serialize_number(number: int) -> bytes:
    """Return a number's bytes: 7 bits each, lowest first."""
    serialized = bytearray()
    while number > 127:
        serialized.append(number & 127 | 128)
        number >>= 7
    return bytes([*serialized, number])


def parse_numbers(serialized: bytes, at: int, count: int) -> tuple[list[int], int]:
    """Return `count` numbers that start at `at`, and where they end."""
    numbers = []
    for _ in range(count):
        number = shift = 0
        while serialized[at] > 127 and shift < 63:
            number |= (serialized[at] & 127) << shift
            at, shift = at + 1, shift + 7
        numbers.append(number | serialized[at] << shift)
        at += 1
    return numbers, at
