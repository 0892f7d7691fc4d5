"""Tests of pruning masks against tfmot, and of global, random, block and N:M pruning."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.protocols import Layer
from lightexp.core.schedule import Schedule
from lightexp.stages.erdos_renyi import allocate_erdos_renyi
from tests.backend import tiny_keras

STEPS = 20  # four epochs of 70 examples in batches of 16
POLYNOMIAL = Schedule(0.1, 0.75, 2, 14, 3)
CONSTANT = Schedule(None, 0.6, 5, 15, 2)
FROM_ZERO = Schedule(0.0, 0.9, 0, 10, 5)


def make_recording_masks(net: Any, schedule: Schedule) -> tuple[Any, Any]:
    """Return masks of the model's kernels, and for each a variable that holds the mask of every step."""
    import tensorflow as tf

    from lightexp.backend.pruning import PruningMasks

    class Recording(PruningMasks):
        def on_step_begin(self, step: Any) -> None:
            super().on_step_begin(step)
            for mask, place in zip(self.variables, recorded, strict=True):
                place.scatter_nd_update([[step]], [mask])

    kernels = tiny_keras.list_kernels(net)
    recorded = [tf.Variable(tf.zeros((STEPS + 1, *kernel.shape))) for kernel in kernels]
    return Recording(kernels, [([i], schedule) for i in range(len(kernels))], STEPS, None), recorded


def prune_with_tfmot(net: Any, schedule: Schedule, settings: Any) -> tuple[Any, list[list[np.ndarray]]]:
    """Return the model pruned by tfmot under Keras' `fit`, and its masks after every step."""
    import tensorflow_model_optimization.sparsity.keras as tfmot

    from lightexp.backend.session import import_keras

    span = schedule.begin, schedule.end
    if schedule.initial is None:
        rule = tfmot.ConstantSparsity(schedule.final, *span, schedule.frequency)
    else:
        rule = tfmot.PolynomialDecay(schedule.initial, schedule.final, *span, frequency=schedule.frequency)
    wrapped = tfmot.prune_low_magnitude(net, rule)
    masks: list[list[np.ndarray]] = []

    def record_masks(batch: int, logs: Any) -> None:
        layers = [layer for layer in wrapped.layers if getattr(layer, "pruning_vars", None)]
        masks.append([layer.pruning_vars[0][1].numpy() for layer in layers])

    callbacks = [tfmot.UpdatePruningStep(), import_keras().callbacks.LambdaCallback(on_batch_end=record_masks)]
    tiny_keras.fit_with_keras(wrapped, tiny_keras.make_data(), settings, 5, callbacks)
    return tfmot.strip_pruning(wrapped), masks


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("schedule", [POLYNOMIAL, CONSTANT, FROM_ZERO], ids=["polynomial", "constant", "from-zero"])
def test_masks_equal_tfmots_at_every_step(tensorflow: None, kind: str, schedule: Schedule) -> None:
    from lightexp.backend.training import Trainer

    settings = tiny_keras.make_settings()
    tfmot_model, expected = prune_with_tfmot(tiny_keras.make_model(kind, seed=3), schedule, settings)
    model = tiny_keras.make_model(kind, seed=3)
    masks, recorded = make_recording_masks(model, schedule)
    history = Trainer(model, settings, tiny_keras.make_data(), 5, constraint=masks).run(tiny_keras.CountingProgress())
    assert len(expected) == STEPS
    changes = 0
    for step, step_masks in enumerate(expected, start=1):
        for number, mask in enumerate(step_masks):
            np.testing.assert_array_equal(recorded[number][step].numpy(), mask, err_msg=f"step {step}, kernel {number}")
            changes += step > 1 and bool((mask != expected[step - 2][number]).any())
    assert changes >= len(tiny_keras.list_kernels(model))  # the masks do change
    for weights, expected_weights in zip(model.get_weights(), tfmot_model.get_weights(), strict=True):
        np.testing.assert_allclose(weights, expected_weights, atol=1e-5)
        np.testing.assert_array_equal(weights == 0, expected_weights == 0)
    assert history["sparsity"][-1] == pytest.approx(schedule.final, abs=0.02)
    assert masks.last_step == schedule.end


@pytest.mark.parametrize("values", [[-1, 1], [-1, 0, 1], [0], [-3, -2, -1, 0, 1, 2, 3]])
@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
def test_equal_weights_reach_sparsity_exactly(tensorflow: None, values: list[int], sparsity: float) -> None:
    import tensorflow as tf

    from lightexp.backend.pruning import PruningMasks

    array = np.random.default_rng(0).choice(np.float32(values), (20, 16))
    kept = []
    for _ in range(2):
        masks = PruningMasks([tf.Variable(array)], [([0], Schedule(None, sparsity, 1, 2, 1))], 2, None)
        masks.on_step_begin(tf.constant(1, tf.int64))
        kept.append(masks.variables[0].numpy())
    np.testing.assert_array_equal(*kept)
    assert kept[0].sum() == round(320 * (1 - sparsity))
    magnitude = np.abs(array)
    assert magnitude[kept[0] == 1].min() >= magnitude[kept[0] == 0].max()
    if len(values) == 2 and sparsity == 0.5:
        assert kept[0].any(axis=0).all()  # no output is pruned entirely


def prune(arrays: list[np.ndarray], groups: list[tuple[list[int], Schedule]], seed: int | None, step: int = 1) -> Any:
    import tensorflow as tf

    from lightexp.backend.pruning import PruningMasks

    variables = [tf.Variable(array) for array in arrays]
    masks = PruningMasks(variables, groups, 10, seed)
    for now in range(1, step + 1):
        masks.on_step_begin(tf.constant(now, tf.int64))
    return [variable.numpy() for variable in variables]


def draw_normal(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=shape) * (number + 1)).astype(np.float32) for number, shape in enumerate(shapes)]


def test_shared_threshold_keeps_largest_of_all_kernels(tensorflow: None) -> None:
    arrays = draw_normal((20, 10), (3, 3, 1, 5), (10, 4))
    after = prune(arrays, [([0, 1, 2], Schedule(None, 0.7, 1, 2, 1))], None)
    flat = np.concatenate([array.ravel() for array in arrays])
    count = round(flat.size * (1 - 0.7))
    survivors = np.zeros(flat.size, bool)
    survivors[np.argsort(-np.abs(flat))[:count]] = True
    np.testing.assert_array_equal(np.concatenate([array.ravel() for array in after]), np.where(survivors, flat, 0))
    assert (after[0] == 0).mean() > (after[2] == 0).mean() + 0.2  # small weights are pruned, wherever they are


def test_groups_follow_their_own_schedules(tensorflow: None) -> None:
    arrays = draw_normal((20, 10), (10, 10))
    groups = [([0], Schedule(None, 0.25, 1, 2, 1)), ([1], Schedule(None, 0.75, 4, 5, 1))]
    assert [int((a == 0).sum()) for a in prune(arrays, groups, None, step=3)] == [50, 0]
    assert [int((a == 0).sum()) for a in prune(arrays, groups, None, step=4)] == [50, 75]


def test_random_masks_are_nested_exact_and_repeatable(tensorflow: None) -> None:
    schedule = Schedule(0.0, 0.8, 0, 10, 2)
    arrays = draw_normal((20, 10), (20, 10))
    groups = [([0], schedule), ([1], schedule)]
    zeros = [[array == 0 for array in prune(arrays, groups, 7, step)] for step in (2, 4, 6, 8, 10)]
    for earlier, later in pairwise(zeros):
        for before, after in zip(earlier, later, strict=True):
            assert (before <= after).all()
            assert before.sum() < after.sum()
    assert [int(zero.sum()) for zero in zeros[-1]] == [160, 160]
    assert (zeros[-1][0] != zeros[-1][1]).any()  # each kernel has its own draws
    others = prune(draw_normal((20, 10), (20, 10), seed=1), groups, 7, 10)
    np.testing.assert_array_equal(others[0] == 0, zeros[-1][0])  # the same whatever the weights are
    assert ((prune(arrays, groups, 8, 10)[0] == 0) != zeros[-1][0]).any()


def test_at_least_one_weight_is_kept(tensorflow: None) -> None:
    after = prune(draw_normal((2, 3)), [([0], Schedule(None, 0.99, 1, 2, 1))], None)
    assert (after[0] != 0).sum() == 1


def test_clear_negative_zeros_keeps_all_values(tensorflow: None) -> None:
    from lightexp.backend.pruning import clear_negative_zeros

    net = tiny_keras.make_model("dense")
    values = [np.where(w > 0, w, -0.0 * np.ones_like(w)).astype(np.float32) for w in net.get_weights()]
    net.set_weights(values)
    assert any((np.signbit(w) & (w == 0)).any() for w in net.get_weights())
    clear_negative_zeros(net)
    for before, after in zip(values, net.get_weights(), strict=True):
        assert not (np.signbit(after) & (after == 0)).any()
        np.testing.assert_array_equal(before, after)


shapes = st.one_of(
    st.tuples(st.integers(1, 400), st.integers(1, 300)),
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 64), st.integers(1, 64)),
)


@given(st.lists(shapes, min_size=1, max_size=6), st.floats(0, 0.99))
def test_erk_spends_its_budget_and_no_layer_exceeds_dense(shapes: list[tuple[int, ...]], sparsity: float) -> None:
    layers = [Layer(str(number), "Dense", shape, 0) for number, shape in enumerate(shapes)]
    allocated = allocate_erdos_renyi(layers, sparsity)
    sizes = {layer.name: int(np.prod(layer.kernel or ())) for layer in layers}
    assert all(-1e-9 <= value <= 1 for value in allocated.values())
    remaining = sum(sizes[name] * (1 - value) for name, value in allocated.items())
    assert remaining == pytest.approx((1 - sparsity) * sum(sizes.values()))
    shares = [
        (1 - allocated[layer.name]) * sizes[layer.name] / sum(layer.kernel or ())
        for layer in layers
        if allocated[layer.name] > 1e-9
    ]
    assert max(shares, default=1) == pytest.approx(min(shares, default=1), rel=1e-6)  # the rule itself


def test_erk_keeps_small_layers_denser() -> None:
    layers = [Layer("large", "Dense", (784, 300), 0), Layer("small", "Dense", (100, 10), 0)]
    allocated = allocate_erdos_renyi(layers, 0.9)
    assert allocated["small"] == 0 < 0.9 < allocated["large"]


def prune_pattern(array: np.ndarray, schedule: Schedule, step: int, **pattern: Any) -> np.ndarray:
    import tensorflow as tf

    from lightexp.backend.pruning import PruningMasks

    kernel = tf.Variable(array)
    masks = PruningMasks([kernel], [([0], schedule)], 10, None, **pattern)
    for now in range(1, step + 1):
        masks.on_step_begin(tf.constant(now, tf.int64))
    return np.asarray(kernel.numpy())


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 3), (3, 7)])
@pytest.mark.parametrize("shape", [(24, 5), (3, 3, 10, 6), (3, 9, 4)])
def test_n_of_m_keeps_the_largest_of_each_group(tensorflow: None, n: int, m: int, shape: tuple[int, ...]) -> None:
    [array] = draw_normal(shape)
    after = prune_pattern(array, Schedule(None, 1 - n / m, 1, 2, 1), 1, m=m)
    columns = np.moveaxis(array, -2, -1).reshape(-1, shape[-2])
    masked = np.moveaxis(after, -2, -1).reshape(-1, shape[-2])
    for before, now in zip(columns, masked, strict=True):
        for first in range(0, len(before), m):
            group = before[first : first + m]
            largest = sorted(range(len(group)), key=lambda i: -abs(group[i]))[:n]
            expected = [value if i in largest else 0 for i, value in enumerate(group)]
            np.testing.assert_array_equal(now[first : first + m], np.float32(expected))


def test_n_of_m_holds_for_equal_weights(tensorflow: None) -> None:
    after = prune_pattern(np.ones((8, 3), np.float32), Schedule(None, 0.5, 1, 2, 1), 1, m=4)
    assert (after.reshape(2, 4, 3) != 0).sum(axis=1).tolist() == [[2, 2, 2], [2, 2, 2]]


def test_n_of_m_grows_gradually(tensorflow: None) -> None:
    [array] = draw_normal((64, 10))
    zeros = [prune_pattern(array, Schedule(0.0, 0.75, 0, 10, 2), step, m=4) == 0 for step in (2, 4, 6, 8, 10)]
    shares = [float(zero.mean()) for zero in zeros]
    expected = [0.75 * (1 - (1 - step / 10) ** 3) for step in (2, 4, 6, 8, 10)]  # Zhu and Gupta's cubic
    np.testing.assert_allclose(shares, expected, atol=1 / 640)
    assert all((earlier <= later).all() for earlier, later in pairwise(zeros))
    fullest = [int((~zero).reshape(16, 4, 10).sum(axis=1).max()) for zero in zeros]
    assert fullest[-1] == 1


@pytest.mark.parametrize("shape", [(16, 12), (10, 7), (3, 3, 2, 6)])
def test_blocks_are_pruned_by_their_mean(tensorflow: None, shape: tuple[int, ...]) -> None:
    [array] = draw_normal(shape)
    after = prune_pattern(array, Schedule(None, 0.5, 1, 2, 1), 1, block=(4, 3)).reshape(-1, shape[-1])
    matrix = array.reshape(-1, shape[-1])
    corners = [(r, c) for r in range(0, len(matrix), 4) for c in range(0, shape[-1], 3)]
    means = {(r, c): np.abs(matrix[r : r + 4, c : c + 3]).mean() for r, c in corners}
    stay = sorted(corners, key=lambda corner: -means[corner])[: round(len(corners) / 2)]
    for r, c in corners:
        block = matrix[r : r + 4, c : c + 3]
        np.testing.assert_array_equal(after[r : r + 4, c : c + 3], block if (r, c) in stay else np.zeros_like(block))
