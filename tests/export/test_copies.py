"""Tests of bytes that are coded as copies of a dictionary."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightexp.export.coder import RangeCoder
from lightexp.export.copies import code_bytes


def encode_and_decode(plain: bytes, dictionary: bytes) -> bytes:
    """Return the stream of bytes, which decodes to them."""
    coder = RangeCoder()
    code_bytes(coder, dictionary, len(plain), plain)
    encoded = coder.finish()
    assert code_bytes(RangeCoder(encoded), dictionary, len(plain), None) == plain
    return encoded


@settings(max_examples=60)
@given(st.lists(st.sampled_from([b"a", b"bc", b"\0" * 9, b"abcdefgh" * 9, b"\xff\0"]), max_size=30), st.binary())
def test_bytes_come_back_with_any_dictionary(parts: list[bytes], dictionary: bytes) -> None:
    plain = b"".join(parts)
    encode_and_decode(plain, dictionary)
    encode_and_decode(dictionary + plain, plain)


def test_differences_from_the_dictionary_take_a_few_bytes() -> None:
    """One byte that is another, one more and one less cost their positions; offsets that all move cost one of them."""
    dictionary = np.random.default_rng(0).integers(0, 256, 2000, np.uint8).tobytes()
    assert len(encode_and_decode(dictionary, dictionary)) <= 8
    other = dictionary[:500] + b"?" + dictionary[501:900] + b"!" + dictionary[900:1500] + dictionary[1501:]
    assert len(encode_and_decode(other, dictionary)) <= 28
    offsets = [struct.pack("<40I", *(range(70_000 - move, 30_000 - move, -1000))) for move in (0, 288)]
    assert len(encode_and_decode(offsets[1], offsets[0])) <= 44


@pytest.mark.parametrize("encoded", [b"", b"\0" * 8, b"\xff" * 64, b"\x5a\xc3" * 40])
def test_bytes_that_no_encoder_wrote_are_refused_or_end(encoded: bytes) -> None:
    """Whatever the stream says, there are no more bytes than asked for."""
    try:
        decoded = code_bytes(RangeCoder(encoded), b"dictionary", 300, None)
    except (ValueError, AssertionError):  # also of the range coder
        return
    assert len(decoded) == 300
