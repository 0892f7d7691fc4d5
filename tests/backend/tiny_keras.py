"""Tiny Keras models, data to train them on, and their training by plain Keras."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightexp.core.data import Data, Split
from lightexp.core.training import Training
from lightexp.objectives.cross_entropy import CrossEntropy

EXAMPLES, CLASSES, SHAPE = 70, 3, (6, 6, 1)  # 70: the last batch of 16 has 6


def make_data(train: int = EXAMPLES) -> Data:
    """Make noise with a bright row whose place is the class, as uint8."""
    rng = np.random.default_rng(1)

    def split(count: int) -> Split:
        y = rng.integers(0, CLASSES, count).astype(np.int32)
        x = rng.integers(0, 120, (count, *SHAPE), dtype=np.uint8)
        x[np.arange(count), y] += 100
        return Split(x, y)

    return Data("tiny", split(train), split(24), split(8), CLASSES, 1 / 255)


def make_model(kind: str, seed: int = 0, l2: float = 0.0) -> Any:
    """Build a model: `dense`, `conv`, `norm` (with batch normalisation) or `dropout`."""
    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(seed)
    kl = import_keras().layers
    x = inputs = kl.Input(SHAPE)
    if kind in ("conv", "norm"):
        # Before a normalisation a bias has no gradient but rounding errors, which Adam makes large.
        x = kl.Conv2D(4, 3, use_bias=kind == "conv", name="conv")(x)
        x = kl.BatchNormalization(momentum=0.8)(x) if kind == "norm" else x
        x = kl.ReLU()(x)
    x = kl.Flatten()(x)
    x = kl.Dense(
        9, activation="relu", name="hidden", kernel_regularizer=import_keras().regularizers.L2(l2) if l2 else None
    )(x)
    x = kl.Dropout(0.3)(x) if kind == "dropout" else x
    return import_keras().Model(inputs, kl.Dense(CLASSES, name="logits")(x))


def make_settings(**changes: Any) -> Training:
    """Make settings of four epochs with batches of 16."""
    return Training(**{"objective": CrossEntropy(), "epochs": 4, "batch_size": 16, "learning_rate": 0.01, **changes})


class CountingProgress:
    """Keeps how far each report of progress was; refuses messages."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def step(self, done: float, total: float, **figures: float) -> None:
        self.steps.append(done)

    def say(self, words: str) -> None:
        raise AssertionError(words)


def list_kernels(net: Any) -> list[Any]:
    """Return the kernels of a model's layers, in order."""
    return [layer.kernel for layer in net.layers if hasattr(layer, "kernel")]


def fit_with_keras(net: Any, source: Data, settings: Training, seed: int, callbacks: list[Any]) -> None:
    """Train with Keras alone: `compile` with Adam and `fit`, on the same batches in the same order."""
    import tensorflow as tf

    from lightexp.backend.session import import_keras

    loss = import_keras().losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(import_keras().optimizers.Adam(settings.learning_rate), loss)
    x, y = source.inputs(source.train.x), source.train.y
    for epoch in range(settings.epochs):
        order = tf.random.experimental.stateless_shuffle(tf.range(len(y)), seed=[seed, epoch]).numpy()
        arguments = {"initial_epoch": epoch, "epochs": epoch + 1, "batch_size": settings.batch_size}
        net.fit(x[order], y[order], shuffle=False, verbose=0, callbacks=callbacks, **arguments)
