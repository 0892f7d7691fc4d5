"""Compress the part of a `.lxe` file that holds no weights: with LZMA, or as copies of a dictionary."""

from __future__ import annotations

import lzma
import zlib

import numpy as np

from lightexp.export import dictionaries
from lightexp.export.coder import RangeCoder
from lightexp.export.copies import code_bytes

LZMA_BYTES, LZMA_WORDS, WITH_DICTIONARY = range(3)
"""LZMA with settings for bytes or for numbers of four bytes; copies of a dictionary."""
_MAX_COPIED = 1 << 16  # bytes; for more, LZMA needs no dictionary, and copies take too long
_MAX_DEFLATED = 1 << 13  # bytes that Deflate makes of them, likewise


class CorruptFile(Exception):
    """A `.lxe` file that lightexp did not write, or that was changed since."""


class UnknownDictionary(Exception):
    """A `.lxe` file that was packed with a dictionary that this lightexp does not have."""

    def __init__(self, version: int, number: int) -> None:
        """Say which dictionary."""
        known = f"version {dictionaries.VERSION} with {len(dictionaries.load())} of them"
        super().__init__(f"needs dictionary {number} of version {version}, and this lightexp has {known}")


def compress(plain: bytes) -> bytes:
    """Compress with LZMA or with one of the dictionaries, whichever is smallest; the first byte says which."""
    candidates = [
        bytes([settings]) + lzma.compress(plain, lzma.FORMAT_RAW, filters=build_filters(settings, len(plain)))
        for settings in (LZMA_BYTES, LZMA_WORDS)
    ]
    if len(plain) <= _MAX_COPIED and dictionaries.load():  # a version has none while they are made
        sizes = [_deflate(plain, dictionary) for dictionary in dictionaries.load()]
        number = int(np.argmin(sizes))
        if sizes[number] <= _MAX_DEFLATED:
            coder = RangeCoder()
            code_bytes(coder, dictionaries.load()[number], len(plain), plain)
            candidates.append(bytes([WITH_DICTIONARY, dictionaries.VERSION, number]) + coder.finish())
    return min(candidates, key=len)


def _deflate(plain: bytes, dictionary: bytes) -> int:
    """Return how many bytes Deflate needs, which finds the best dictionary fast."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_DEFAULT_STRATEGY, dictionary)
    return len(deflate.compress(plain) + deflate.flush())


def decompress(data: bytes, size: int) -> bytes:
    """Return the bytes that were compressed.

    Args:
        data: What `compress` returned.
        size: Their number.

    Raises:
        CorruptFile: If LZMA knows that `data` holds another number of bytes, or it was compressed in an unknown way.
        UnknownDictionary: If it was compressed with a dictionary that is not known.
    """
    if len(data) < 3 or data[0] > WITH_DICTIONARY:
        raise CorruptFile("it is packed in a way that is not known")
    if data[0] == WITH_DICTIONARY:
        known = dictionaries.load(data[1])
        if data[2] >= len(known):
            raise UnknownDictionary(data[1], data[2])
        if size > _MAX_COPIED:
            raise CorruptFile(f"it claims {size:,} bytes of copies")
        return code_bytes(RangeCoder(data[3:]), known[data[2]], size, None)
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=build_filters(data[0], size))
    plain = decompressor.decompress(data[1:], max_length=size + 1)
    if len(plain) != size or not decompressor.eof:
        raise CorruptFile("its parts are not of the sizes it claims")
    return plain


def estimate_size(content: bytes) -> int:
    """Return the size of `content` compressed with LZMA's fastest settings."""
    return len(lzma.compress(content, lzma.FORMAT_RAW, filters=build_filters(LZMA_BYTES, len(content), preset=1)))


def build_filters(settings: int, size: int, preset: int = 9 | lzma.PRESET_EXTREME) -> list[dict[str, int]]:
    """Return the settings of LZMA without a container, with a window that holds `size` bytes."""
    window = 1 << int(np.clip((size - 1).bit_length(), 12, 26))
    literals = {"lc": 3, "lp": 0} if settings == LZMA_BYTES else {"lc": 0, "lp": 2}
    return [{"id": lzma.FILTER_LZMA1, "preset": preset, "dict_size": window, **literals}]
