"""Tests of the adaptive range coder: what symbols cost, and that their bytes never change."""

from __future__ import annotations

import hashlib

import numpy as np

from lightexp.export.coder import MAX_SCALE, make_bell_counts
from lightexp.export.lxe import read_header
from tests.export.encoded_files import compute_entropy, encode_and_decode, make_span

NONZERO = np.random.default_rng(0).random((100, 400)) < 0.05


def test_zeros_near_zeros_cost_less_than_their_entropy() -> None:
    rng = np.random.default_rng(1)
    independent = np.where(NONZERO, rng.integers(1, 8, NONZERO.shape), 0).astype(np.float32)
    image = np.repeat(independent[:, :100].reshape(100, 10, 10), 4, axis=2).reshape(100, 400)  # four equal pixels each
    sizes = [len(encode_and_decode(array.tobytes(), [make_span(array)])) for array in (independent, image)]
    assert sizes[0] < 1.02 * compute_entropy(independent) + 200
    assert sizes[1] < 0.75 * compute_entropy(image)


def test_range_coder_writes_the_same_bytes_everywhere() -> None:
    """The numbers are computed exactly, so that only the coder's models could make other bytes of them."""
    steps = np.arange(30_000, dtype=np.int64)
    noise = (steps * steps * 2654435761 >> 7) % 1009
    ints = (noise % 23 - 11).astype(np.int8).reshape(100, 300)
    shared = np.where(noise < 900, 0, noise % 7 - 3).astype(np.float32).reshape(30_000 // 50, 50)
    floats = (noise / 1024 + steps / 2**20).astype(np.float32)
    content = ints.tobytes() + shared.tobytes() + floats.tobytes()
    spans = [make_span(ints), make_span(shared, ints.nbytes), make_span(floats, ints.nbytes + shared.nbytes)]
    encoded = encode_and_decode(content, spans)
    _, sizes, start = read_header(encoded)
    stream = encoded[start + sizes[-1] :]  # what LZMA packs may depend on its version
    assert hashlib.sha256(stream).hexdigest() == "56700b03c5627d71f8bdfc31155d5a2070fb54d79dd723896773dc21f1d411fe"


def test_few_int8_weights_take_little_more_than_their_entropy() -> None:
    """Their distribution is known but for its scale, so that 255 counts need not be learnt."""
    weights = np.clip(np.rint(np.random.default_rng(2).normal(0, 40, (32, 64))), -127, 127).astype(np.int8)
    entropy = weights.size * np.log2(40 * np.sqrt(2 * np.pi * np.e)) / 8
    assert len(encode_and_decode(weights.tobytes(), [make_span(weights)])) < entropy + 70


def test_bell_counts_are_the_same_on_every_machine() -> None:
    assert make_bell_counts(1)[:6].tolist() == [231, 228, 217, 202, 183, 162]
    assert make_bell_counts(MAX_SCALE)[[0, 1, 127, 128, 255]].tolist() == [17, 17, 16, 16, 17]
