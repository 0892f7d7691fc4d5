"""Tests of the fused optimisers against Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.backend import tiny_keras


@pytest.mark.parametrize(
    ("changes", "keras_class", "arguments"),
    [
        ({"optimizer": "adam"}, "Adam", {}),
        ({"optimizer": "adamw", "weight_decay": 0.1}, "AdamW", {"weight_decay": 0.1}),
        ({"optimizer": "sgd", "momentum": 0.0}, "SGD", {}),
        ({"optimizer": "sgd", "momentum": 0.9}, "SGD", {"momentum": 0.9}),
    ],
    ids=["adam", "adamw", "sgd", "momentum"],
)
def test_twenty_steps_equal_keras(
    tensorflow: None, changes: dict[str, Any], keras_class: str, arguments: dict[str, Any]
) -> None:
    import tensorflow as tf

    from lightexp.backend.optimizers import Optimizer
    from lightexp.backend.session import import_keras

    rng = np.random.default_rng(2)
    start = [rng.normal(size=shape).astype(np.float32) for shape in ((5, 4), (4,))]
    variables, expected = ([tf.Variable(value) for value in start] for _ in range(2))
    optimizer = Optimizer(tiny_keras.make_settings(**changes), variables)
    keras_optimizer = getattr(import_keras().optimizers, keras_class)(learning_rate=1.0, **arguments)
    apply = tf.function(optimizer.apply)
    for step in range(1, 21):
        rate = np.float32(0.05 / step)
        gradients = [tf.constant(rng.normal(size=value.shape).astype(np.float32)) for value in start]
        apply(gradients, tf.constant(step, tf.int64), tf.constant(rate))
        keras_optimizer.learning_rate = rate
        keras_optimizer.apply_gradients(zip(gradients, expected, strict=True))
    for variable, other, first in zip(variables, expected, start, strict=True):
        np.testing.assert_allclose(variable.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)
        assert np.abs(variable.numpy() - first).max() > 0.01


def test_variables_without_gradient_are_unchanged(tensorflow: None) -> None:
    import tensorflow as tf

    from lightexp.backend.optimizers import Optimizer

    variable = tf.Variable([1.0, 2.0])
    Optimizer(tiny_keras.make_settings(optimizer="adamw"), [variable]).apply(
        [None], tf.constant(1, tf.int64), tf.constant(0.1)
    )
    assert variable.numpy().tolist() == [1, 2]
