"""Dropout and noise that depend on the step alone, so that a training can be left and gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tf_keras.src.backend import RandomGenerator

_APART = 1 << 40  # more steps than any training has
_OWN = "_random_generator"


@contextmanager
def seed_by_step(model: Any, seed: int, step: Any) -> Iterator[None]:
    """While the graph of a step is made, every layer of `model` draws by (seed, layer, step).

    Keras' own draws come from operators that count their calls inside TensorFlow, where nothing can be saved.

    Args:
        model: A tf_keras model.
        seed: Of the training.
        step: Int64 tensor.
    """
    layers = [vars(layer) for layer in model._flatten_layers() if _OWN in vars(layer)]  # past Keras' tracking
    before = [layer[_OWN] for layer in layers]
    try:
        for number, layer in enumerate(layers, start=1):
            layer[_OWN] = _Drawn((tf.constant(seed, tf.int64), number * _APART + step))
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer[_OWN] = own


class _Drawn(RandomGenerator):  # type: ignore[misc]
    """Gives each layer one seed a step; a second draw of a step, as of a cell that repeats, folds in its number."""

    def __init__(self, pair: tuple[Any, Any]) -> None:
        super().__init__(rng_type=self.RNG_STATELESS)
        self._pair, self._draws = pair, 0

    def make_seed_for_stateless_op(self) -> Any:
        self._draws += 1
        pair = tf.stack(self._pair)
        return pair if self._draws == 1 else tf.random.experimental.stateless_fold_in(pair, self._draws)
