"""Tests of the Erdős–Rényi-Kernel allocation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.protocols import Layer
from lightexp.stages.erdos_renyi import allocate_erdos_renyi

KERNELS = st.lists(
    st.lists(st.integers(1, 30), min_size=2, max_size=2) | st.lists(st.integers(1, 8), min_size=4, max_size=4),
    min_size=1,
    max_size=6,
)


@given(kernels=KERNELS, sparsity=st.floats(0, 0.99))
def test_total_sparsity_and_order_of_densities(kernels: list[list[int]], sparsity: float) -> None:
    layers = [Layer(f"l{i}", "Dense", tuple(kernel), 0) for i, kernel in enumerate(kernels)]
    sparsities = allocate_erdos_renyi(layers, sparsity)
    counts = {layer.name: int(np.prod(layer.kernel or ())) for layer in layers}
    assert all(-1e-9 <= share <= 1 for share in sparsities.values())
    zeros = sum(sparsities[name] * count for name, count in counts.items())
    assert zeros == pytest.approx(sparsity * sum(counts.values()), abs=1e-6)
    raw_densities = {layer.name: sum(layer.kernel or ()) / counts[layer.name] for layer in layers}
    order = sorted(raw_densities, key=raw_densities.__getitem__)
    assert all(sparsities[a] >= sparsities[b] - 1e-9 for a, b in pairwise(order))


def test_sparsities_equal_computation_by_hand() -> None:
    layers = [Layer("a", "Dense", (10, 10), 0), Layer("b", "Dense", (100, 100), 0)]
    # densities s * 20/100 and s * 200/10,000; together 0.1 of 10,100 weights: s = 1010/220
    scale = 1010 / 220
    assert allocate_erdos_renyi(layers, 0.9) == pytest.approx({"a": 1 - scale * 0.2, "b": 1 - scale * 0.02})
    layers.append(Layer("c", "Dense", (1, 1), 0))  # its density would exceed 1
    assert allocate_erdos_renyi(layers, 0.9)["c"] == 0
