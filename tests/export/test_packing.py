"""Tests of compressing the rest of a `.lxe` file."""

from __future__ import annotations

import lzma

import numpy as np
import pytest

from lightexp.export import dictionaries, packing
from lightexp.export.packing import CorruptFile, compress, decompress


@pytest.mark.parametrize("plain", [b"", b"a", bytes(10_000), np.arange(5000, dtype="<u4").tobytes()])
def test_decompress_returns_what_was_compressed(plain: bytes) -> None:
    assert decompress(compress(plain), len(plain)) == plain


def test_compress_takes_the_better_settings() -> None:
    words = np.random.default_rng(0).normal(size=5000).astype("<f4")
    assert compress(words.tobytes())[0] == packing.LZMA_WORDS
    assert compress(bytes(range(256)) * 3 + bytes(200_000))[0] == packing.LZMA_BYTES
    assert compress(dictionaries.load()[3][:3000])[:3] == bytes([packing.WITH_DICTIONARY, dictionaries.VERSION, 3])


@pytest.mark.parametrize("size", [0, 99, 101])
def test_decompress_refuses_another_size(size: int) -> None:
    """Copies of a dictionary have no end of their own, and `lxe.decode` compares the digest."""
    filters = packing.build_filters(packing.LZMA_BYTES, 100)
    data = bytes([packing.LZMA_BYTES]) + lzma.compress(bytes(100), lzma.FORMAT_RAW, filters=filters)
    with pytest.raises(CorruptFile, match="not of the sizes"):
        decompress(data, size)


def test_copies_of_a_dictionary_are_limited() -> None:
    """They take more time than LZMA."""
    assert compress(dictionaries.load()[3] * 20)[0] != packing.WITH_DICTIONARY
    with pytest.raises(CorruptFile, match="claims 65,537 bytes"):
        decompress(compress(dictionaries.load()[3]), 65_537)


@pytest.mark.parametrize("data", [b"", b"\x03abc"])
def test_decompress_refuses_unknown_settings(data: bytes) -> None:
    with pytest.raises(CorruptFile, match="not known"):
        decompress(data, 10)
