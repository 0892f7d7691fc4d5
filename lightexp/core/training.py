"""Settings of training: optimiser, learning rates, epochs, and the rungs of successive halving."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import Count, Fraction, Index, NonNegative, Positive, settings_dataclass
from lightexp.core.protocols import TrainingObjective

TRAINING_VERSION = 2
"""Version of the training loop, part of the key of every trained artifact."""


@settings_dataclass
class Training:
    """How a stage trains.

    Attributes:
        objective: The loss that it minimises.
        epochs: Passes over the train split. Defaults to 10.
        batch_size: Examples in a step; the last batch of an epoch may be smaller. Defaults to 32.
        optimizer: `adam`, `sgd` (with `momentum`) or `adamw` (with `weight_decay`). Defaults to `adam`.
        learning_rate: Learning rate at the start. Defaults to 0.001.
        learning_rate_schedule: `constant`, `cosine` (to 0 at the end) or `step` (times `decay_factor` every
            `decay_epochs`). Defaults to `constant`.
        decay_epochs: See `learning_rate_schedule`. Defaults to 5.
        decay_factor: See `learning_rate_schedule`. Defaults to 0.1.
        momentum: Momentum of SGD. Defaults to 0.9.
        weight_decay: Decoupled weight decay of AdamW (Loshchilov and Hutter 2019). Defaults to 0.004.
        early_stopping: Epochs without a lower validation loss, or without a better `task.primary` if one is set, after
            which training stops and returns to its best epoch; 0 trains to the end. Defaults to 0.
        loop: `graph` trains a whole epoch in one TensorFlow call; `fit` feeds batches through Keras' `fit`, slower,
            for data that should not be copied into TensorFlow, and always taken for a train split that is kept on
            disk. Both give the same bytes. Defaults to `graph`.
    """

    objective: TrainingObjective = field(kw_only=True)
    epochs: Count = 10
    batch_size: Count = 32
    optimizer: Literal["adam", "sgd", "adamw"] = "adam"
    learning_rate: Positive = 1e-3
    learning_rate_schedule: Literal["constant", "cosine", "step"] = "constant"
    decay_epochs: Count = 5
    decay_factor: Fraction = 0.1
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.004
    early_stopping: Index = 0
    loop: Literal["graph", "fit"] = "graph"

    def learning_rates(self, steps_per_epoch: int) -> NDArray[np.float32]:
        """Return the learning rate of every step, a float32 array `(epochs * steps_per_epoch,)`."""
        total = self.epochs * steps_per_epoch
        step = np.arange(total, dtype=np.float64)
        if self.learning_rate_schedule == "cosine":
            factor = 0.5 * (1 + np.cos(math.pi * step / total))
        elif self.learning_rate_schedule == "step":
            factor = self.decay_factor ** (step // (self.decay_epochs * steps_per_epoch))
        else:
            factor = np.ones(total)
        return (self.learning_rate * factor).astype(np.float32)


@settings_dataclass
class Rung:
    """A rung of successive halving: how long a configuration is trained before it is compared with others.

    Attributes:
        number: Number of the rung, from 0; the rung after the last of `epochs` trains to the end.
        epochs: Epochs of each earlier rung, counted from the end of the schedules.

    Example:
        >>> Rung(1, (1, 3)).stops(2, 10), Rung(2, (1, 3)).stops(2, 10)
        ([3, 5], [3, 5, None])
    """

    number: int
    epochs: tuple[int, ...]

    def stops(self, scheduled: int, total: int) -> list[int | None]:
        """Return the epochs after which training stops on each rung up to this one.

        Args:
            scheduled: Epochs after which no schedule changes anything but the learning rate.
            total: Number of epochs of the training.

        Returns:
            The epochs; the last is None where training runs to its end.
        """
        epochs = [scheduled + rung_epochs for rung_epochs in self.epochs[: self.number + 1]]
        stops: list[int | None] = [epoch for epoch in epochs if epoch < total]
        return stops if len(stops) > self.number else [*stops, None]


def count_steps_per_epoch(examples: int, batch_size: int) -> int:
    """Return the number of steps of one pass over the examples, including the smaller last batch."""
    return math.ceil(examples / batch_size)
