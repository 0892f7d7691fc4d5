"""Settings of a training stage, and the learning rate that they mean, as plain numbers."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import Count, Fraction, Index, NonNegative, Positive, settings_dataclass
from lightexp.core.protocols import TrainingObjective

TRAINING_VERSION = 2
"""Of the training loop: part of every trained artifact's key."""


@settings_dataclass
class Training:
    """How a stage trains.

    Attributes:
        objective: What it minimises.
        epochs: Passes over the train split. Defaults to 10.
        batch_size: Examples a step; the last batch of an epoch may be smaller. Defaults to 32.
        optimizer: `adam`, `sgd` (with `momentum`) or `adamw` (with `weight_decay`). Defaults to `adam`.
        learning_rate: At the start. Defaults to 0.001.
        learning_rate_schedule: `constant`, `cosine` (to 0 at the end) or `step` (times `decay_factor` every
            `decay_epochs`). Defaults to `constant`.
        decay_epochs: See `learning_rate_schedule`. Defaults to 5.
        decay_factor: See `learning_rate_schedule`. Defaults to 0.1.
        momentum: Of SGD. Defaults to 0.9.
        weight_decay: Of AdamW, decoupled (Loshchilov and Hutter 2019). Defaults to 0.004.
        early_stopping: Epochs without a lower validation loss after which training stops and goes back to its best
            epoch; 0 trains to the end. Defaults to 0.
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
        """The learning rate of every step, `(epochs * steps_per_epoch,)`; it depends on the step alone."""
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
    """How far a training goes that successive halving may cut short.

    Attributes:
        number: From 0; the one after the last of `epochs` goes to the training's end.
        epochs: Those of each rung but that, counted from where the schedules have ended.
    """

    number: int
    epochs: tuple[int, ...]

    def stops(self, settled: int, whole: int) -> list[int | None]:
        """The epochs after which the rungs up to this one stop; the last is None where it goes to the training's end.

        Args:
            settled: Epochs after which no schedule changes anything but the learning rate.
            whole: All epochs of the training.
        """
        before = [settled + more for more in self.epochs[: self.number + 1] if settled + more < whole]
        return [*before, *([None] if len(before) <= self.number else [])]


def count_steps_per_epoch(examples: int, batch_size: int) -> int:
    """Steps of one pass over `examples`, the last, smaller batch included."""
    return math.ceil(examples / batch_size)
