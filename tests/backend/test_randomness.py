"""Tests of random layers seeded by the training step."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightexp.core import compat


def test_seed_by_step_draws_anew_in_each_step_and_layer(tensorflow: None) -> None:
    import tensorflow as tf

    from lightexp.backend.randomness import seed_by_step
    from lightexp.backend.session import import_keras

    layers = import_keras().layers
    inputs = layers.Input((200,))
    model = import_keras().Model(
        inputs, [layers.Dropout(0.5)(inputs), layers.GaussianNoise(1.0)(inputs), layers.Dropout(0.5)(inputs)]
    )

    before = [compat.get_random_generator(layer) for layer in model.layers]

    @tf.function
    def draw(seed: int, step: Any) -> Any:
        with seed_by_step(model, seed, step):
            return model(tf.ones((1, 200)), training=True)

    def draw_bytes(step: int, seed: int = 5) -> list[bytes]:
        return [outputs.numpy().tobytes() for outputs in draw(seed, tf.constant(step, tf.int64))]

    draws = [*draw_bytes(1), *draw_bytes(2), *draw_bytes(1, seed=6)]
    assert len(set(draws)) == len(draws)
    assert draw_bytes(2) == draws[3:6]
    dropped = np.frombuffer(draws[0], np.float32)
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert 60 < int(np.sum(dropped == 0)) < 140
    after = [compat.get_random_generator(layer) for layer in model.layers]
    assert all(generator is other for generator, other in zip(before, after, strict=True))  # Keras' own
