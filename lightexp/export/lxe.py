"""The entropy-coded file (`.lxe`): a `.tflite` whose constants are range coded and whose rest is packed by LZMA.

    LXE1 | CRC-32 of what follows | SHA-256 of the .tflite, its first 16 bytes | three sizes | packed | stream

`packed` holds the notes on how each constant was coded, and the file with these constants cut out; `stream` them.
"""

from __future__ import annotations

import hashlib
import lzma
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, fields

import numpy as np

from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.tflite_graph import ConstantSpan
from lightexp.export.coder import UNIT, RangeCoder, SymbolCounts
from lightexp.export.constants import (
    BYTE_PLANES,
    CODEBOOK,
    DIRECT,
    MAX_CODEBOOK_SIZE,
    Bits,
    CodingParameters,
    code_constant,
    list_candidates,
    max_lines,
    pack_values,
    unpack_values,
)

_MAGIC = b"LXE1"
_HEAD = struct.Struct("<4sI16s4I")  # the sizes: of the .tflite; of the notes and the rest; of the notes; of both packed
_SMALLEST = 32  # bytes of a constant worth notes of its own


class _Broken(Exception):
    """Not a file that `encode` made."""


def max_decoded_size(size: int) -> int:
    """Bytes that an encoded file of `size` bytes may decode to."""
    return (16 << 20) + 1024 * size


def encode(content: bytes, constants: Sequence[ConstantSpan]) -> bytes:
    """Encodes a `.tflite` file.

    Args:
        content: The file.
        constants: Where its constants lie, in order, none overlapping another.

    Raises:
        RunFailed: If the file says so little for its size that `decode` would not believe it.
    """
    coder, models = RangeCoder(), SymbolCounts()
    notes, rest, end = b"", [], 0
    for stored in constants:
        raw = content[stored.start : stored.start + stored.length]
        best = min(_tried(coder, models, stored, raw, stored.start - end), default=None, key=lambda one: one[0])
        deflated = len(zlib.compress(raw, 6))  # what the general coder would make of it; of noise LZMA makes more
        if best and best[0] < (deflated if deflated < len(raw) else 1.01 * len(raw)):
            _, coder, models, words = best
            notes += words
            rest.append(content[end : stored.start])
            end = stored.start + stored.length
    plain = b"".join([notes, *rest, content[end:]])
    packed = _packed(plain)
    digest = hashlib.sha256(content).digest()[:16]
    body = _HEAD.pack(_MAGIC, 0, digest, len(content), len(plain), len(notes), len(packed)) + packed + coder.finish()
    quick = lzma.compress(content, lzma.FORMAT_RAW, filters=_filters(0, len(content), preset=1))
    if constants and len(quick) < 1.05 * len(body):  # it may repeat itself over long distances
        return min(encode(content, ()), _signed(body), key=len)
    if len(content) > max_decoded_size(len(body)):
        raise RunFailed(f"The file's {len(content):,} bytes say next to nothing. Pack it with gzip instead.")
    return _signed(body)


def _signed(body: bytes) -> bytes:
    return _MAGIC + struct.pack("<I", zlib.crc32(body[8:])) + body[8:]


def _tried(
    coder: RangeCoder, models: SymbolCounts, stored: ConstantSpan, raw: bytes, gap: int
) -> Iterator[tuple[int, RangeCoder, SymbolCounts, bytes]]:
    """For each way of coding a constant its bytes, the coder and counts after it, and its notes."""
    if len(raw) >= _SMALLEST and len(raw) * 8 % stored.width == 0:
        values = unpack_values(raw, stored.width)
        for notes, book in list_candidates(stored, raw, gap):
            copy, learnt, words = coder.copy(), SymbolCounts(models), _written(notes, book)
            code_constant(copy, learnt, notes, book, values)
            yield copy.size - coder.size + len(words), copy, learnt, words


def decode(encoded: bytes) -> bytes:
    """The `.tflite` file that was encoded, to the bit.

    Raises:
        BadInput: If lightexp did not encode it, or it is truncated or altered.
    """
    if encoded[:4] != _MAGIC:
        raise BadInput(f"This is no encoded model ({len(encoded)} bytes). Give a .lxe file that lightexp wrote.")
    try:
        content = _decode(encoded)
    except Exception as error:  # whatever the coders make of bytes that they did not write
        raise BadInput(f"The encoded model is cut off or altered: {error}. Encode the .tflite again.") from None
    return content


def _decode(encoded: bytes) -> bytes:
    _, crc, digest, size, unpacked, noted, length = _HEAD.unpack_from(encoded)
    if crc != zlib.crc32(encoded[8:]):
        raise _Broken("its checksum is another")
    if max(size, unpacked) > max_decoded_size(len(encoded)) or noted > unpacked:
        raise _Broken(f"it claims {max(size, unpacked):,} bytes")
    start = _HEAD.size
    plain = _unpacked(encoded[start : start + length], unpacked)
    coder, models = RangeCoder(encoded[start + length :]), SymbolCounts()
    parts, at, total = [], noted, unpacked - noted
    for notes, book in _read(plain[:noted]):
        total += notes.count * notes.width // 8
        if total > size:
            raise _Broken(f"it claims to be {size:,} bytes and is more")
        parts += [plain[at : at + notes.gap], pack_values(code_constant(coder, models, notes, book, None), notes.width)]
        at += notes.gap
    content = b"".join([*parts, plain[at:]])
    if len(content) != size or hashlib.sha256(content).digest()[:16] != digest:
        raise _Broken("it decodes to something else than was encoded")
    return content


def _packed(plain: bytes) -> bytes:
    """By the general coder, in the better way; the first byte says which."""
    ways = (bytes([way]) + lzma.compress(plain, lzma.FORMAT_RAW, filters=_filters(way, len(plain))) for way in (0, 1))
    return min(ways, key=len)


def _unpacked(data: bytes, size: int) -> bytes:
    if len(data) < 1 or data[0] > 1:
        raise _Broken("it is packed in a way that is not known")
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(data[0], size))
    plain = unpacker.decompress(data[1:], max_length=size + 1)
    if len(plain) != size or not unpacker.eof:
        raise _Broken("its parts are not of the sizes it claims")
    return plain


def _filters(way: int, size: int, preset: int = 9 | lzma.PRESET_EXTREME) -> list[dict[str, int]]:
    """LZMA without a container: for bytes, or for numbers of four; with a window that holds `size` bytes."""
    window = 1 << int(np.clip((size - 1).bit_length(), 12, 26))
    literals = {"lc": 3, "lp": 0} if way == 0 else {"lc": 0, "lp": 2}
    return [{"id": lzma.FILTER_LZMA1, "preset": preset, "dict_size": window, **literals}]


def _written(notes: CodingParameters, book: Bits) -> bytes:
    """Notes as bytes: each number 7 bits a byte, lowest first; then the steps from value to value of the book."""
    words = bytearray()
    for number in astuple(notes):
        while number > 127:
            words.append(number & 127 | 128)
            number >>= 7
        words.append(number)
    return bytes(words) + (np.diff(book, prepend=book.dtype.type(0)).tobytes() if notes.kind == CODEBOOK else b"")


def _read(words: bytes) -> Iterator[tuple[CodingParameters, Bits]]:
    """What `_written` wrote, one constant after another."""
    at = 0
    while at < len(words):
        numbers = []
        for _ in fields(CodingParameters):
            number = shift = 0
            while words[at] > 127 and shift < 63:
                number |= (words[at] & 127) << shift
                at, shift = at + 1, shift + 7
            numbers.append(number | words[at] << shift)
            at += 1
        notes = CodingParameters(*numbers)
        if not _sound(notes):
            raise _Broken("its notes make no sense")
        kind = np.dtype(f"<u{max(8, notes.width) // 8}")
        book = np.arange(1 << notes.width if notes.kind == DIRECT else 1).astype(kind)
        if notes.kind == CODEBOOK:
            size = notes.distinct * kind.itemsize
            book = np.cumsum(np.frombuffer(words[at : at + size], kind), dtype=kind)
            at += size
        if len(book) < max(notes.zero, 1):
            raise _Broken("its notes end early")
        yield notes, book


def _sound(notes: CodingParameters) -> bool:
    return (
        notes.width in (2, 4, 8, 16, 32, 64)
        and notes.count > 0
        and notes.count * notes.width % 8 == 0
        and notes.kind in (CODEBOOK, DIRECT, BYTE_PLANES)
        and (notes.kind != DIRECT or notes.width <= 8)
        and (notes.kind != BYTE_PLANES or notes.width >= 8)
        and 1 <= notes.lines <= max_lines(notes.count)
        and notes.count % notes.lines == 0
        and notes.distinct <= MAX_CODEBOOK_SIZE
        and 1 <= notes.share <= UNIT
    )
