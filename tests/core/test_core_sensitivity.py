"""Curves of single layers, and what is shared out by them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.errors import BadInput
from lightexp.core.sensitivity import Table, borne, fewest_bits, low_rank, pruned, rounded, shares, strength

FACTS: dict[str, Any] = {
    "sensitivity": {
        "accuracy": 0.9,
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
places = st.lists(st.floats(0.01, 0.99), min_size=0, max_size=5, unique=True).map(sorted)
drops = st.lists(st.floats(0, 1), min_size=5, max_size=5).map(sorted)
curves = st.builds(lambda x, y: [(0.0, 0.0), *zip(x, y, strict=False), (1.0, 1.0)], places, drops)
layers = st.lists(st.tuples(curves, st.integers(1, 10_000)), min_size=1, max_size=5)


def table() -> Table:
    found = Table.of(json.loads(json.dumps(FACTS)))
    assert found
    return found


def test_a_curve_never_falls_and_ends_with_everything_lost() -> None:
    zeros, rank = (np.array(table().curve(["conv"], kind)) for kind in ("sparsity", "rank"))
    assert zeros == pytest.approx(np.array([(0, 0), (0.5, 0), (0.8, 0.1), (0.9, 0.4), (1, 1)]))
    assert rank == pytest.approx(np.array([(0, 0), (0.5, 0.05), (0.75, 0.05), (1, 1)]))
    assert table().curve(["net/conv/Conv2D"], "bits")[1] == pytest.approx((0.75, 0.01))
    assert table().curve(["depth"], "sparsity") == [(0, 0), (1, 1)]  # nothing measured, nothing promised


def test_levels_go_from_weak_to_strong() -> None:
    assert table().levels("sparsity") == [0.5, 0.8, 0.9]
    assert table().levels("bits") == [8, 4, 2]
    assert table().levels("rank") == [0.5, 0.25]
    assert strength("rank", 1.0) == strength("bits", 32) == strength("sparsity", 0) == 0


def test_a_layer_that_is_not_in_the_table_is_named() -> None:
    with pytest.raises(BadInput, match=r"no layer 'dense'. Its layers are: conv, depth"):
        table().row(["net/dense", "dense"])


@pytest.mark.parametrize("facts", [{}, {"sensitivity": 3}, {"sensitivity": {"accuracy": 1, "layers": {"a": {}}}}])
def test_what_is_no_table_is_none(facts: dict[str, Any]) -> None:
    assert Table.of(facts) is None


@given(curves, st.floats(0, 0.999))
def test_what_is_borne_costs_no_more_and_a_little_more_would(curve: Any, drop: float) -> None:
    place = borne(curve, drop)
    x, y = zip(*curve, strict=True)
    assert 0 <= place < 1
    assert np.interp(place, x, y) <= drop + 1e-6
    assert borne(curve, min(drop + 0.01, 1)) >= place
    beyond = place + 1e-6 * (1 - place)
    assert np.interp(beyond, x, y) >= drop - 1e-6


@given(layers, st.floats(0, 0.99))
def test_what_is_shared_out_adds_up(given_layers: Any, share: float) -> None:
    by_name = {str(i): curve for i, (curve, _) in enumerate(given_layers)}
    sizes = {str(i): float(size) for i, (_, size) in enumerate(given_layers)}
    found = shares(by_name, sizes, share)
    assert all(0 <= value <= 1 for value in found.values())
    assert sum(found[n] * sizes[n] for n in found) / sum(sizes.values()) == pytest.approx(share, abs=1e-9)


@given(st.lists(st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)), min_size=2, max_size=4), st.floats(0.1, 0.95))
def test_all_layers_bear_the_same_drop(points: Any, share: float) -> None:
    by_name = {str(i): [(0.0, 0.0), point, (1.0, 1.0)] for i, point in enumerate(points)}
    found = shares(by_name, dict.fromkeys(by_name, 1.0), share)
    costs = [np.interp(found[name], *zip(*curve, strict=True)) for name, curve in by_name.items()]
    assert max(costs) - min(costs) < 1e-6


def test_the_layer_that_bears_more_gets_more() -> None:
    tough, soft = [(0.0, 0.0), (0.9, 0.01), (1.0, 1.0)], [(0.0, 0.0), (0.5, 0.3), (1.0, 1.0)]
    found = shares({"tough": tough, "soft": soft}, {"tough": 100, "soft": 100}, 0.5)
    assert found["tough"] > 0.9 > 0.1 > found["soft"] > 0
    level = [(0.0, 0.0), (0.9, 0.0), (1.0, 1.0)]  # costs nothing: both give back the same part of 0.9
    assert shares({"a": level, "b": level}, {"a": 1, "b": 2}, 0.6) == pytest.approx({"a": 0.6, "b": 0.6})


def test_the_fewest_bits_have_no_dearer_ones_above_them() -> None:
    curve = table().curve(["conv"], "bits")
    assert [fewest_bits(curve, drop, (2, 4, 8)) for drop in (0.0, 0.0101, 0.59, 0.7)] == [32, 4, 4, 2]
    assert fewest_bits(curve, 0.7, (4, 8)) == 4
    assert fewest_bits([(0.0, 0.0), (1.0, 1.0)], 0.5, (2, 4, 8)) == 32


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_the_smallest_weights_go(share: float) -> None:
    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 5)).astype(np.float32)
    found = pruned(kernel, share)
    gone = found == 0
    assert gone.sum() == round(share * kernel.size)
    assert np.abs(kernel[gone]).max(initial=0) <= np.abs(kernel[~gone]).min()
    assert (found[~gone] == kernel[~gone]).all()


def test_a_channel_of_zeros_stays_one() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 20)).astype(np.float32)
    kernel[1] = 0
    found = rounded(kernel, 4, 0)
    assert (found[1] == 0).all()
    assert len(np.unique(found[0])) <= 15
    assert np.abs(found - kernel).max() <= np.abs(kernel).max() / 7 / 2 + 1e-6


@pytest.mark.parametrize(
    ("shape", "highest"), [((30, 20), 20), ((16, 3, 3, 2), 16), ((8, 3, 3, 12), 8), ((8, 1, 1, 6), 6)]
)
def test_the_rank_is_what_was_asked_for(shape: tuple[int, ...], highest: int) -> None:
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    outputs = low_rank(kernel, 0.5).reshape(shape[0], -1)
    assert np.linalg.matrix_rank(outputs, tol=1e-4) == highest // 2
    assert low_rank(kernel, 0.999) == pytest.approx(kernel, abs=1e-4)  # rounds to all of it
    inputs = np.moveaxis(low_rank(kernel, 0.5), -1, 0).reshape(shape[-1], -1)
    fewer = shape[-1] // 2 if len(shape) > 2 and shape[1] > 1 and shape[-1] > 4 else min(shape[-1], highest // 2)
    fewer = 2 if shape[-1] == 2 else fewer
    assert np.linalg.matrix_rank(inputs, tol=1e-4) == fewer


def test_of_a_matrix_it_is_the_nearest_of_that_rank() -> None:
    kernel = np.random.default_rng(0).normal(size=(10, 8)).astype(np.float32)
    values = np.linalg.svd(kernel, compute_uv=False)
    assert np.linalg.norm(kernel - low_rank(kernel, 0.5)) == pytest.approx(np.linalg.norm(values[4:]), rel=1e-4)
