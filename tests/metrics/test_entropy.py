"""Tests of order-0 entropies and bits per weight, against computations by hand."""

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
from tests.metrics import tiny_models


def test_count_entropy_bits_of_known_values() -> None:
    assert count_entropy_bits(np.zeros((3, 4), np.int8)) == 0
    assert count_entropy_bits(np.array([[0, 0], [1, 1]], np.int8)) == 4
    assert count_entropy_bits(np.array([0, 0, 1, 2], np.float32)) == pytest.approx(2 * 1 + 2 * 2)
    assert count_entropy_bits(np.arange(256, dtype=np.float32)) == pytest.approx(256 * 8)


def test_many_distinct_floats_count_zero_map_and_raw_values() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    assert count_entropy_bits(values) == 32_000
    values[:250] = 0
    zero_map = -1000 * (0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert count_entropy_bits(values.reshape(10, 100)) == pytest.approx(750 * 32 + zero_map)
    assert count_entropy_bits(values.astype(np.float16)) <= 750 * 16 + zero_map


@given(arrays(np.int8, st.integers(1, 200)))
def test_integer_entropy_is_bounded_and_ignores_order(values: np.ndarray) -> None:
    bits = count_entropy_bits(values)
    assert 0 <= bits <= 8 * len(values) + 1e-9
    assert count_entropy_bits(np.sort(values)) == bits
    assert bits == pytest.approx(-sum(math.log2((values == value).mean()) for value in values))


def test_metrics_of_files(tmp_path: Path) -> None:
    def measure(scheme: str, zeroed: bool = False) -> dict[str, float]:
        path = tmp_path / "m.tflite"
        path.write_bytes(tiny_models.make_tflite("conv", scheme, zeroed))
        context = MeasurementContext(path, path, tiny_models.make_data("conv"), 1)
        return {metric.name: metric.value for metric in [*Graph().measure(context), *Entropy().measure(context)]}

    floats, halves, integers = measure("float"), measure("float16"), measure("int8")
    params = floats["model/params"]
    assert (floats["model/bits_per_weight"], halves["model/bits_per_weight"]) == (32, 16)
    assert 8 < integers["model/bits_per_weight"] < 12  # biases are int32, and there are scales
    assert floats["model/entropy_bytes"] <= 4 * params
    assert integers["model/entropy_bytes"] < params
    assert measure("int8", zeroed=True)["model/entropy_bytes"] < 0.6 * integers["model/entropy_bytes"]
