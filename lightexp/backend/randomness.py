"""Seed dropout and noise layers by the training step, so that an interrupted training can be continued exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightexp.backend.session import import_keras, import_tensorflow
from lightexp.core import compat

tf = import_tensorflow()

_STEPS_PER_LAYER = 1 << 40  # more steps than any training has, so that no two layers share a seed


@contextmanager
def seed_by_step(model: Any, seed: int, step: Any) -> Iterator[None]:
    """Make every layer of `model` draw by (seed, layer, step) while a step's graph is traced.

    Keras' own draws come from operators that count their calls inside TensorFlow, a state that cannot be saved.

    Args:
        model: A tf_keras model.
        seed: The training's seed.
        step: Int64 scalar tensor.
    """
    generators = [
        (layer, generator)
        for layer in compat.list_keras_layers(model)
        if (generator := compat.get_random_generator(layer)) is not None
    ]
    try:
        for number, (layer, _) in enumerate(generators, start=1):
            pair = (tf.constant(seed, tf.int64), number * _STEPS_PER_LAYER + step)
            compat.set_random_generator(layer, _StepSeededGenerator(pair))
        yield
    finally:
        for layer, generator in generators:
            compat.set_random_generator(layer, generator)


class _StepSeededGenerator(compat.get_random_generator_class(import_keras())):  # type: ignore[misc]
    """Keras' random generator with one given seed for a step's first draw.

    A second draw in the same step, as by a recurrent cell, folds the number of the draw into the seed.
    """

    def __init__(self, pair: tuple[Any, Any]) -> None:
        super().__init__(rng_type=self.RNG_STATELESS)
        self._pair = pair
        self._draws = 0

    def make_seed_for_stateless_op(self) -> Any:
        """Return the next draw's seed, an int64 tensor `(2,)`."""
        self._draws += 1
        pair = tf.stack(self._pair)
        if self._draws == 1:
            return pair
        return tf.random.experimental.stateless_fold_in(pair, self._draws)
