"""Tests of weights on grids: rounding, the gradients of latent weights and steps, and the grids of a model's layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.backend import tiny_keras


def round_straight_through(latent: Any, step: Any, limit: int | None) -> Any:
    """Return the rounded weights, with gradients by TensorFlow."""
    import tensorflow as tf

    position = latent / step
    if limit:
        position = tf.clip_by_value(position, -limit, limit)
    return (position + tf.stop_gradient(tf.round(position) - position)) * step


@pytest.mark.parametrize("shape", [(), (1, 3)], ids=["tensor", "channel"])
@pytest.mark.parametrize("limit", [None, 7])
def test_gradients_are_those_of_straight_through(tensorflow: None, limit: int | None, shape: tuple[int, ...]) -> None:
    import tensorflow as tf

    from lightexp.backend.grid_weights import GridTensor, GridWeights

    rng = np.random.default_rng(0)
    start, target = rng.normal(size=(2, 40, 3)).astype(np.float32)
    steps = np.full(shape, 0.2 if limit is None else 0.1, np.float32)
    variable, other = tf.Variable(start), tf.Variable(1.0)
    weights = GridWeights([GridTensor("w", variable, steps, limit, price=2.0)], rate=3.0, ramp_steps=10)
    same, latent, log_step = weights.replace([other, variable])
    assert same is other
    weights.on_step_begin(tf.constant(5))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(variable - target)) * other
    gradients = weights.pull_back([other, variable], tape.gradient(loss, [other, variable]), tf.constant(5))

    with tf.GradientTape() as tape:
        tape.watch([latent, log_step])
        value = round_straight_through(latent, steps * tf.exp(5 * log_step), limit)
        bits = tf.math.log(1 + 2 * tf.square(latent / (steps * tf.exp(5 * log_step)))) / np.log(2)
        # Half of the ramp, twice the price.
        loss = tf.reduce_sum(tf.square(value - target)) + 3.0 * tf.reduce_sum(bits) / 120
    expected = tape.gradient(loss, [latent, log_step])
    inside = np.abs(start / steps) <= (limit or np.inf)
    np.testing.assert_allclose(gradients[1].numpy()[inside], expected[0].numpy()[inside], rtol=2e-4, atol=1e-5)
    if limit is None:  # else, weights beyond the limit pay for the distance as well
        np.testing.assert_allclose(gradients[2].numpy(), expected[1].numpy(), rtol=2e-4, atol=1e-3)
    np.testing.assert_allclose(variable.numpy(), value.numpy(), rtol=1e-6)
    assert (np.abs(variable.numpy() / steps) <= (limit or np.inf) + 1e-3).all()


@pytest.mark.parametrize("limits", [(None, None, None), (None, 7, 1)], ids=["free", "limited"])
def test_small_variables_are_joined_exactly(tensorflow: None, limits: tuple[int | None, ...]) -> None:
    import tensorflow as tf

    from lightexp.backend.grid_weights import GridTensor, GridWeights

    rng = np.random.default_rng(0)
    steps = [np.float32([[0.3, 0.1, 0.2]]), np.float32(0.4), np.full((1, 1, 2), 0.5, np.float32)]
    starts = [rng.normal(size=shape).astype(np.float32) for shape in [(4, 3), (3,), (3, 2, 2)]]

    def train(chosen: list[int]) -> list[Any]:
        variables = [tf.Variable(starts[n]) for n in chosen]
        tensors = [
            GridTensor(f"w{n}", variable, steps[n], limits[n], price=1.0 + n)
            for n, variable in zip(chosen, variables, strict=True)
        ]
        weights = GridWeights(tensors, rate=sum(starts[n].size for n in chosen), ramp_steps=1)  # a bit costs 1
        other = tf.Variable([5.0])
        weights.on_step_begin(tf.constant(1))
        gradients = weights.pull_back([*variables, other], [*(starts[n] for n in chosen), other], tf.constant(1))
        for variable, gradient in zip(weights.replace([*variables, other]), gradients, strict=True):
            variable.assign_sub(0.01 * gradient)
        assert other.numpy() == 5.0 - 0.05
        weights.round_with_threshold(0.7)
        return [*(variable.numpy() for variable in variables), *weights.describe_steps().values()]

    joined, separate = train([0, 1, 2]), [train([n]) for n in range(3)]
    for n, values in enumerate(separate):
        np.testing.assert_allclose(joined[n], values[0], rtol=1e-5)
        assert joined[3 + n] == pytest.approx(values[1], rel=1e-5)
        assert np.abs(values[0] - starts[n]).max() > 0.01


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("per_channel", [False, True])
def test_training_leaves_weights_on_their_grids(tensorflow: None, per_channel: bool, limit: int | None) -> None:
    from lightexp.backend.grid_weights import GridWeights, list_grid_tensors
    from lightexp.backend.training import Trainer
    from lightexp.core.grids import find_channel_steps

    net, names = tiny_keras.make_model("norm", l2=1e-4), ["conv", "hidden", "logits"]
    tensors = list_grid_tensors(net, dict.fromkeys(names, 1.0), dict.fromkeys(names, limit), per_channel)
    assert [tensor.name for tensor in tensors] == [
        "conv/kernel",
        *("hidden/kernel", "hidden/bias"),
        *("logits/kernel", "logits/bias"),
    ]
    weights = GridWeights(tensors, 0.01, 2)
    settings = tiny_keras.make_settings(optimizer="adamw")
    history = Trainer(net, settings, tiny_keras.make_data(), 5, constraint=weights).run(tiny_keras.CountingProgress())
    assert history["loss"][-1] < history["loss"][0]
    steps = weights.describe_steps()
    for name in names:
        kernel = net.get_layer(name).kernel.numpy()
        found = find_channel_steps(kernel, limit or 1023)
        assert found is not None
        if not per_channel:
            multiples = kernel / steps[f"{name}/kernel"]
            np.testing.assert_allclose(multiples, np.round(multiples), atol=1e-3)
    zeros = sum(int(np.sum(variable.variable.numpy() == 0)) for variable in tensors)
    assert history["sparsity"][-1] == pytest.approx(zeros / sum(t.variable.numpy().size for t in tensors))
    assert history["sparsity"][-1] > 0.05


def test_higher_rate_leaves_fewer_weights(tensorflow: None) -> None:
    from lightexp.backend.grid_weights import GridWeights, list_grid_tensors
    from lightexp.backend.training import Trainer

    nonzero = []
    for rate in (0.0, 3.0):
        net = tiny_keras.make_model("dense")
        prices = {"hidden": 1.0, "logits": 0.0}
        weights = GridWeights(list_grid_tensors(net, prices, dict.fromkeys(prices), False), rate, 4)
        settings = tiny_keras.make_settings(learning_rate=0.03)
        Trainer(net, settings, tiny_keras.make_data(), 5, constraint=weights).run(tiny_keras.CountingProgress())
        nonzero.append([int(np.count_nonzero(kernel.numpy())) for kernel in tiny_keras.list_kernels(net)])
    assert nonzero[1][0] < 0.5 * nonzero[0][0]  # the layer that pays
    assert nonzero[1][1] > 0.7 * nonzero[0][1]  # the layer whose bits are free


def test_channels_of_each_kind_of_layer(tensorflow: None) -> None:
    """Whatever the layers' names are, and in a model inside the model."""
    from lightexp.backend.grid_weights import list_grid_tensors
    from lightexp.backend.session import import_keras

    kl = import_keras().layers
    layers: list[Any] = [
        kl.Input((8, 8, 3)),
        kl.DepthwiseConv2D(3, depth_multiplier=2, name="first"),
        kl.SeparableConv2D(4, 3, name="second"),
        import_keras().Sequential([kl.Conv2DTranspose(5, 3), kl.BatchNormalization()], name="third"),
        kl.Reshape((-1, 5)),
        kl.Conv1D(6, 3, name="depthwise"),
        kl.Bidirectional(kl.GRU(7), name="transpose"),
        kl.LayerNormalization(name="norm"),
        kl.Dense(2, name="last"),
    ]
    net = import_keras().Sequential(layers)
    names = [layer.name for layer in net.layers if layer.weights and layer.name != "norm"]
    tensors = list_grid_tensors(net, dict.fromkeys(names, 1.0), dict.fromkeys(names, 7), True)
    assert len(tensors) == len(net.trainable_variables) - 4  # of the normalisations
    shapes = [tensor.step.shape for tensor in tensors if len(tensor.variable.shape) > 1]
    separable = [(1, 1, 6, 1), (1, 1, 1, 4)]
    recurrent = [(1, 21)] * 2 * 2 + [(1, 21)] * 2  # kernels, recurrent kernels and the GRU's biases of two rows
    assert sorted(shapes) == sorted([(1, 1, 3, 2), *separable, (1, 1, 5, 1), (1, 1, 6), *recurrent, (1, 2)])
    assert all(tensor.step.min() > 0 for tensor in tensors)


def test_first_step_is_the_deviation_or_rounds_best(tensorflow: None) -> None:
    from lightexp.backend.grid_weights import list_grid_tensors

    net = tiny_keras.make_model("dense")
    kernel = net.get_layer("hidden").kernel.numpy()

    def choose(price: float, limit: int | None) -> float:
        return float(list_grid_tensors(net, {"hidden": price}, {"hidden": limit}, False)[0].step)

    def compute_error(step: float, limit: int) -> float:
        return float(np.square(np.clip(np.round(kernel / step), -limit, limit) * step - kernel).sum())

    assert choose(1.0, None) == choose(0.0, None) == choose(1.0, 7) == pytest.approx(kernel.std())
    for price, limit in ((0.0, 127), (0.0, 7), (1.0, 1)):
        best = choose(price, limit)
        assert compute_error(best, limit) < min(compute_error(best * factor, limit) for factor in (0.8, 1.25))
