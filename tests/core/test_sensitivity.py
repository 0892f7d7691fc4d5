"""Sensitivity tables, the allocation of compression by them, and kernels compressed for measuring them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from lightexp.core.errors import BadInput
from lightexp.core.sensitivity import (
    LayerSensitivity,
    SensitivityTable,
    allocate,
    choose_fewest_bits,
    compute_strength,
    prune_kernel,
    round_kernel,
    truncate_rank,
)

FACTS: dict[str, Any] = {
    "sensitivity": {
        "accuracy": 0.9,
        "chance": 0.1,
        "examples": 100,
        "layers": {
            "conv": {
                "names": ["net/conv/Conv2D", "conv"],
                "weights": 100,
                "levels": {
                    "sparsity": {"0.5": 0.91, "0.9": 0.5, "0.8": 0.8},
                    "rank": {"0.5": 0.85, "0.25": 0.86},
                    "bits": {"8": 0.89, "4": 0.9, "2": 0.3},
                },
            },
            "depth": {"names": ["depth"], "weights": 9, "levels": {"bits": {"8": 0.9}}},
        },
    }
}
strengths = st.lists(st.floats(0.01, 0.99), min_size=0, max_size=5, unique=True).map(sorted)
costs = st.lists(st.floats(0, 5), min_size=5, max_size=5).map(sorted)
curves = st.builds(lambda x, y: [(0.0, 0.0), *zip(x, y, strict=False)], strengths, costs)
layers = st.lists(st.tuples(curves, st.integers(1, 10_000)), min_size=1, max_size=5)


@pytest.fixture
def table() -> SensitivityTable:
    """Return the table of `FACTS`, read as from a record."""
    read = SensitivityTable.find(json.loads(json.dumps(FACTS)))
    assert read
    return read


def test_compute_drops_never_decreases(table: SensitivityTable) -> None:
    zeros, rank = (np.array(table.compute_drops(["conv"], kind)) for kind in ("sparsity", "rank"))
    assert zeros == pytest.approx(np.array([(0, 0), (0.5, 0), (0.8, 0.1), (0.9, 0.4)]))
    assert rank == pytest.approx(np.array([(0, 0), (0.5, 0.05), (0.75, 0.05)]))
    assert table.compute_drops(["net/conv/Conv2D"], "bits")[1] == pytest.approx((0.75, 0.01))
    assert table.compute_drops(["depth"], "sparsity") == [(0, 0)]  # no level was measured


def test_compute_costs_returns_logarithms_of_skill(table: SensitivityTable) -> None:
    assert [cost for _, cost in table.compute_costs(["conv"], "sparsity")] == pytest.approx(
        [0, 0, -np.log(7 / 8), np.log(2)]
    )
    at_chance = SensitivityTable(0.9, 0.1, 100, {"a": LayerSensitivity(["a"], 5, {"sparsity": {0.5: 0.05}})})
    assert at_chance.compute_costs(["a"], "sparsity")[-1] == pytest.approx((0.5, np.log(100)))
    untrained = SensitivityTable(0.1, 0.1, 100, at_chance.layers)
    assert untrained.compute_costs(["a"], "sparsity") == [(0, 0), (0.5, 0)]


def test_list_levels_sorts_by_strength(table: SensitivityTable) -> None:
    assert table.list_levels("sparsity") == [0.5, 0.8, 0.9]
    assert table.list_levels("bits") == [8, 4, 2]
    assert table.list_levels("rank") == [0.5, 0.25]
    assert compute_strength("rank", 1.0) == compute_strength("bits", 32) == compute_strength("sparsity", 0) == 0


def test_find_row_names_a_missing_layer(table: SensitivityTable) -> None:
    with pytest.raises(BadInput, match=r"no layer 'dense'. Its layers are: conv, depth"):
        table.find_row(["net/dense", "dense"])


@pytest.mark.parametrize("facts", [{}, {"sensitivity": 3}, {"sensitivity": {"accuracy": 1, "layers": {"a": {}}}}])
def test_find_returns_none_without_a_table(facts: dict[str, Any]) -> None:
    assert SensitivityTable.find(facts) is None


@given(layers, st.floats(0, 0.99))
@example([([(0.0, 0.0)], 1), ([(0.0, 0.0)], 8368), ([(0.0, 0.0), (0.19055608756706835, 0.0)], 6418)], 2.6927502739e-213)
def test_allocate_reaches_the_share(drawn_layers: Any, share: float) -> None:
    by_name = {str(i): curve for i, (curve, _) in enumerate(drawn_layers)}
    sizes = {str(i): float(size) for i, (_, size) in enumerate(drawn_layers)}
    strengths = allocate(by_name, sizes, share)
    assert all(0 <= value < 1 + 1e-9 for value in strengths.values())
    total = sum(strengths[name] * sizes[name] for name in strengths)
    assert total / sum(sizes.values()) == pytest.approx(share, abs=1e-9)
    highest = {name: curve[-1][0] for name, curve in by_name.items()}
    if any(strengths[name] > highest[name] + 1e-9 for name in strengths):  # then all are at their highest level
        assert all(strengths[name] >= highest[name] - 1e-9 for name in strengths)


@settings(suppress_health_check=[HealthCheck.filter_too_much])  # few draws leave two layers between their levels
@given(layers, st.floats(0.05, 0.9), st.data())
def test_allocate_is_optimal(drawn_layers: Any, share: float, data: Any) -> None:
    by_name = {str(i): [(x, x * y) for x, y in curve] for i, (curve, _) in enumerate(drawn_layers)}  # convex or not
    sizes = {str(i): float(size) for i, (_, size) in enumerate(drawn_layers)}
    strengths = allocate(by_name, sizes, share)
    envelopes = {name: make_envelope(curve) for name, curve in by_name.items()}
    names = [name for name in strengths if 1e-3 < strengths[name] < by_name[name][-1][0] - 1e-3]
    assume(len(names) >= 2)
    giver, taker = data.draw(st.permutations(names))[:2]
    change = 1e-4 * min(sizes[giver], sizes[taker])

    def compute_added_cost(name: str, change: float) -> float:
        envelope, strength = envelopes[name], strengths[name]
        return envelope(strength + change / sizes[name]) - envelope(strength)

    assert compute_added_cost(giver, -change) + compute_added_cost(taker, change) >= -1e-9


def make_envelope(curve: list[tuple[float, float]]) -> Callable[[float], float]:
    """Return the lower convex envelope of a curve by its definition: the minimum of all chords."""
    pairs = [(p, q) for i, p in enumerate(curve) for q in curve[i:]]

    def envelope(x: float) -> float:
        chords = [(*p, *q) for p, q in pairs if p[0] <= x <= q[0]]
        return min(a + (b - a) * ((x - x0) / (x1 - x0) if x1 > x0 else 0) for x0, a, x1, b in chords)

    return envelope


def test_allocate_spares_small_and_sensitive_layers() -> None:
    tough, soft = [(0.0, 0.0), (0.9, 0.01)], [(0.0, 0.0), (0.5, 0.3), (0.9, 2.0)]
    strengths = allocate({"tough": tough, "soft": soft}, {"tough": 100, "soft": 100}, 0.5)
    assert strengths == pytest.approx({"tough": 0.9, "soft": 0.1})
    strengths = allocate({"large": soft, "small": soft}, {"large": 1000, "small": 10}, 0.8)
    # Each weight of the small layer costs a hundred times as much.
    assert strengths == pytest.approx({"large": 0.808, "small": 0})
    level = [(0.0, 0.0), (0.9, 0.0)]  # without costs, both layers are compressed alike
    assert allocate({"a": level, "b": level}, {"a": 1, "b": 2}, 0.6) == pytest.approx({"a": 0.6, "b": 0.6})
    assert allocate({"a": level, "b": level}, {"a": 1, "b": 2}, 0.96) == pytest.approx({"a": 0.96, "b": 0.96})


def test_allocate_follows_the_convex_envelope() -> None:
    step, ramp = [(0.0, 0.0), (0.5, 1.0), (0.9, 1.0)], [(0.0, 0.0), (0.9, 1.35)]
    assert allocate({"step": step, "ramp": ramp}, {"step": 1, "ramp": 1}, 0.45) == pytest.approx(
        {"step": 0.9, "ramp": 0}
    )


def test_choose_fewest_bits(table: SensitivityTable) -> None:
    curve = table.compute_drops(["conv"], "bits")
    assert [choose_fewest_bits(curve, drop, (2, 4, 8)) for drop in (0.0, 0.0101, 0.59, 0.7)] == [32, 4, 4, 2]
    assert choose_fewest_bits(curve, 0.7, (4, 8)) == 4
    assert choose_fewest_bits([(0.0, 0.0)], 0.5, (2, 4, 8)) == 32


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_prune_kernel_removes_the_smallest_weights(share: float) -> None:
    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 5)).astype(np.float32)
    pruned = prune_kernel(kernel, share)
    zeros = pruned == 0
    assert zeros.sum() == round(share * kernel.size)
    assert np.abs(kernel[zeros]).max(initial=0) <= np.abs(kernel[~zeros]).min()
    assert (pruned[~zeros] == kernel[~zeros]).all()


def test_round_kernel_keeps_a_channel_of_zeros() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 20)).astype(np.float32)
    kernel[1] = 0
    rounded = round_kernel(kernel, 4, 0)
    assert (rounded[1] == 0).all()
    assert len(np.unique(rounded[0])) <= 15
    assert np.abs(rounded - kernel).max() <= np.abs(kernel).max() / 7 / 2 + 1e-6


@pytest.mark.parametrize(
    ("shape", "highest"), [((30, 20), 20), ((16, 3, 3, 2), 16), ((8, 3, 3, 12), 8), ((8, 1, 1, 6), 6)]
)
def test_truncate_rank_has_the_rank(shape: tuple[int, ...], highest: int) -> None:
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    outputs = truncate_rank(kernel, 0.5).reshape(shape[0], -1)
    assert np.linalg.matrix_rank(outputs, tol=1e-4) == highest // 2
    assert truncate_rank(kernel, 0.999) == pytest.approx(kernel, abs=1e-4)  # rounds to the full rank
    inputs = np.moveaxis(truncate_rank(kernel, 0.5), -1, 0).reshape(shape[-1], -1)
    if shape[-1] == 2:
        expected = 2
    elif len(shape) > 2 and shape[1] > 1 and shape[-1] > 4:
        expected = shape[-1] // 2
    else:
        expected = min(shape[-1], highest // 2)
    assert np.linalg.matrix_rank(inputs, tol=1e-4) == expected


def test_truncate_rank_of_a_matrix_is_optimal() -> None:
    kernel = np.random.default_rng(0).normal(size=(10, 8)).astype(np.float32)
    values = np.linalg.svd(kernel, compute_uv=False)
    assert np.linalg.norm(kernel - truncate_rank(kernel, 0.5)) == pytest.approx(np.linalg.norm(values[4:]), rel=1e-4)
