"""Tests of coding constants: any array comes back bit by bit, within the bound on its size."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from lightexp.backend.flatbuffer import read_constant_spans
from lightexp.core.tflite_graph import ConstantSpan
from lightexp.export.constants import pack_values, unpack_values
from tests.export.encoded_files import (
    WIDTHS,
    build_flatbuffer,
    compute_bound,
    compute_entropy,
    encode_and_decode,
    make_span,
    measure_constants,
)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Draw constants as networks have them, and as they do not."""
    kind = draw(st.sampled_from(sorted(WIDTHS)))
    shape = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4).filter(lambda s: np.prod(s) < 20_000))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.normal(0, draw(st.sampled_from([0.1, 3, 30])), shape)
    if draw(st.booleans()):
        values = np.round(values * 2) / 2
    values = np.where(rng.random(shape) < draw(st.sampled_from([0, 0.5, 0.95, 1])), 0, values)
    if draw(st.booleans()):  # inputs that nothing depends on
        values[..., : values.shape[-1] // 2] = 0
    return values.astype(np.dtype("<" + kind))


@given(st.lists(arrays(), max_size=4), st.binary(max_size=50))
def test_constants_come_back_bit_by_bit(constants: list[np.ndarray], between: bytes) -> None:
    content, spans = between, []
    for array in constants:
        spans.append(make_span(array, len(content)))
        content += array.tobytes() + between
    encoded = encode_and_decode(content, spans)
    assert measure_constants(content, encoded, spans) <= compute_bound(content, spans)


@given(st.binary(max_size=3000), st.sampled_from([2, 4, 8, 16, 32, 64]), st.booleans())
def test_any_bytes_can_be_coded_as_values(raw: bytes, width: int, floats: bool) -> None:
    raw = raw[: len(raw) // 8 * 8] * 3
    encode_and_decode(raw, [ConstantSpan(0, len(raw), width, floats, (7, 5))])
    assert pack_values(unpack_values(raw, width), width) == raw


def test_both_zeros_and_all_nans_keep_their_bits() -> None:
    values = np.zeros(4000, np.float32)
    values[::3] = -0.0
    values[::7] = np.frombuffer(struct.pack("<I", 0x7FC0_1234), np.float32)
    values[::11] = np.frombuffer(struct.pack("<I", 0xFF80_0001), np.float32)  # signalling, negative
    encode_and_decode(values.tobytes(), [make_span(values)])


def test_values_narrower_than_a_byte_are_modelled_singly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fours = np.clip(np.round(rng.normal(0, 2, 20_001)), -8, 7).astype(np.int8)
    nibbles = np.append(fours, 0).astype(np.uint8) & 15
    packed_fours = (nibbles[::2] | nibbles[1::2] << 4).astype(np.uint8)
    twos = rng.choice(4, 4096, p=[0.9, 0.05, 0.03, 0.02]).astype(np.uint8).reshape(-1, 4)
    packed_twos = np.bitwise_or.reduce(twos << np.array([0, 2, 4, 6], np.uint8), axis=1).astype(np.uint8)
    content = build_flatbuffer([(packed_fours, schema.TensorType.INT4), (packed_twos, schema.TensorType.INT2)])
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    spans = read_constant_spans(path)
    assert sorted(span.width for span in spans) == [2, 4]
    encoded = encode_and_decode(content, spans)
    assert len(encoded) < 1.02 * (compute_entropy(fours) + compute_entropy(twos)) + 350
