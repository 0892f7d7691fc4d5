"""Order-0 entropies and bits of weights, against computations by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightexp.core.protocols import MeasurementContext
from lightexp.metrics.entropy import Entropy, count_entropy_bits
from lightexp.metrics.graph import Graph
from tests.metrics import tiny


def test_known_entropies() -> None:
    assert count_entropy_bits(np.zeros((3, 4), np.int8)) == 0
    assert count_entropy_bits(np.array([[0, 0], [1, 1]], np.int8)) == 4
    assert count_entropy_bits(np.array([0, 0, 1, 2], np.float32)) == pytest.approx(2 * 1 + 2 * 2)
    few = np.arange(256, dtype=np.float32)
    assert count_entropy_bits(few) == pytest.approx(256 * 8)


def test_many_different_floats_are_kept_as_they_are_beside_a_map_of_zeros() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    assert count_entropy_bits(values) == 32_000
    values[:250] = 0
    map_of_zeros = -1000 * (0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert count_entropy_bits(values.reshape(10, 100)) == pytest.approx(750 * 32 + map_of_zeros)
    assert count_entropy_bits(values.astype(np.float16)) <= 750 * 16 + map_of_zeros


@given(arrays(np.int8, st.integers(1, 200)))
def test_whole_numbers_take_no_more_than_their_type_and_do_not_mind_order(values: np.ndarray) -> None:
    bits = count_entropy_bits(values)
    assert 0 <= bits <= 8 * len(values) + 1e-9
    assert count_entropy_bits(np.sort(values)) == bits
    assert bits == pytest.approx(-sum(math.log2((values == v).mean()) for v in values))


def test_figures_of_files(tmp_path: Path) -> None:
    def figures(scheme: str, zeroed: bool = False) -> dict[str, float]:
        path = tmp_path / "m.tflite"
        path.write_bytes(tiny.flat("conv", scheme, zeroed))
        one = MeasurementContext(path, path, tiny.data("conv"), 1)
        return {f.name: f.value for f in [*Graph().measure(one), *Entropy().measure(one)]}

    floats, halves, integers = figures("float"), figures("float16"), figures("int8")
    params = floats["model/params"]
    assert (floats["model/bits_per_weight"], halves["model/bits_per_weight"]) == (32, 16)
    assert 8 < integers["model/bits_per_weight"] < 12  # biases are int32, and there are scales
    assert floats["model/entropy_bytes"] <= 4 * params
    assert integers["model/entropy_bytes"] < params
    assert figures("int8", zeroed=True)["model/entropy_bytes"] < 0.6 * integers["model/entropy_bytes"]
