from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.backend import nets


@pytest.mark.parametrize(
    ("changes", "theirs", "words"),
    [
        ({"optimizer": "adam"}, "Adam", {}),
        ({"optimizer": "adamw", "weight_decay": 0.1}, "AdamW", {"weight_decay": 0.1}),
        ({"optimizer": "sgd", "momentum": 0.0}, "SGD", {}),
        ({"optimizer": "sgd", "momentum": 0.9}, "SGD", {"momentum": 0.9}),
    ],
    ids=["adam", "adamw", "sgd", "momentum"],
)
def test_twenty_steps_are_keras_own(
    tensorflow: None, changes: dict[str, Any], theirs: str, words: dict[str, Any]
) -> None:
    import tensorflow as tf

    from lightexp.backend.optimizers import Optimizer
    from lightexp.backend.session import import_keras

    rng = np.random.default_rng(2)
    start = [rng.normal(size=shape).astype(np.float32) for shape in ((5, 4), (4,))]
    ours, expected = ([tf.Variable(value) for value in start] for _ in range(2))
    optimizer = Optimizer(nets.settings(**changes), ours)
    keras_own = getattr(import_keras().optimizers, theirs)(learning_rate=1.0, **words)
    take = tf.function(optimizer.apply)
    for step in range(1, 21):
        rate = np.float32(0.05 / step)
        gradients = [tf.constant(rng.normal(size=value.shape).astype(np.float32)) for value in start]
        take(gradients, tf.constant(step, tf.int64), tf.constant(rate))
        keras_own.learning_rate = rate
        keras_own.apply_gradients(zip(gradients, expected, strict=True))
    for mine, other, first in zip(ours, expected, start, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)
        assert np.abs(mine.numpy() - first).max() > 0.01


def test_a_variable_without_gradient_is_left_alone(tensorflow: None) -> None:
    import tensorflow as tf

    from lightexp.backend.optimizers import Optimizer

    variable = tf.Variable([1.0, 2.0])
    Optimizer(nets.settings(optimizer="adamw"), [variable]).apply([None], tf.constant(1, tf.int64), tf.constant(0.1))
    assert variable.numpy().tolist() == [1, 2]
