"""Compress the part of a `.lxe` file that is not range coded, with LZMA without a container."""

from __future__ import annotations

import lzma

import numpy as np

LZMA_BYTES, LZMA_WORDS = 0, 1
"""Settings of LZMA: for bytes, for numbers of four bytes."""


class CorruptFile(Exception):
    """A `.lxe` file that lightexp did not write, or that was changed since."""


def compress(plain: bytes) -> bytes:
    """Compress with the better settings of LZMA; the first byte says which."""
    candidates = (
        bytes([settings]) + lzma.compress(plain, lzma.FORMAT_RAW, filters=build_filters(settings, len(plain)))
        for settings in (LZMA_BYTES, LZMA_WORDS)
    )
    return min(candidates, key=len)


def decompress(data: bytes, size: int) -> bytes:
    """Return the bytes that were compressed.

    Args:
        data: What `compress` returned.
        size: Their number.

    Raises:
        CorruptFile: If `data` holds another number of bytes, or was compressed in an unknown way.
    """
    if len(data) < 1 or data[0] > LZMA_WORDS:
        raise CorruptFile("it is packed in a way that is not known")
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
