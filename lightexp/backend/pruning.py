"""Masks of weight pruning, on tfmot's schedules and by tfmot's rule, inside the training graph.

tfmot's wrapper (`prune_low_magnitude`) does the same layer by layer, but mutates the layers that it is given, knows no
sparsity of the whole model and refuses layers it has not heard of. What it computes is kept to the bit: at a step that
the schedule names, of n weights the `round(n * (1 - sparsity))` largest stay, at least one; before every
forward pass, and after an epoch, weights are multiplied by their mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lightexp.core.schedule import Schedule


def table(schedule: Schedule, steps: int) -> tuple[Any, Any]:
    """Whether masks change at each of the steps 0 to `steps`, and to which sparsity, as tfmot's schedule says."""
    from tensorflow_model_optimization.sparsity import keras as sparsity

    if schedule.initial is None:
        rule = sparsity.ConstantSparsity(schedule.final, schedule.begin, schedule.end, schedule.frequency)
    else:
        rule = sparsity.PolynomialDecay(
            schedule.initial, schedule.final, schedule.begin, schedule.end, frequency=schedule.frequency
        )
    due, target = rule(tf.range(steps + 1, dtype=tf.int64))
    return due.numpy(), np.broadcast_to(target.numpy(), steps + 1)


class PruningMasks:
    """Masks over some kernels of a model; see `lightexp.backend.training.Masks`."""

    def __init__(
        self, kernels: Sequence[Any], groups: Sequence[tuple[Sequence[int], Schedule]], steps: int, seed: int | None
    ) -> None:
        """Starts with nothing pruned.

        Args:
            kernels: The variables to prune.
            groups: Which kernels (by index) share one schedule and one threshold.
            steps: All steps of the training.
            seed: Of random scores, fixed for the training; None ranks by magnitude.
        """
        self._kernels = list(kernels)
        self._masks = [tf.Variable(tf.ones_like(k), trainable=False) for k in self._kernels]
        self._groups = []
        self._seed = seed
        self.last_step = 0
        tables: dict[Schedule, tuple[Any, Any]] = {}
        for members, schedule in groups:
            due, target = tables[schedule] = tables.get(schedule) or table(schedule, steps)
            self._groups.append((list(members), tf.constant(due), tf.constant(target)))
            self.last_step = max(self.last_step, int(np.flatnonzero(due)[-1]) if due.any() else 0)

    def before_step(self, step: Any) -> None:
        """Updates the masks if the schedule says so, and masks the weights."""
        for members, due, target in self._groups:
            tf.cond(due[step], lambda m=members, t=target: self._update(m, t[step]), lambda: None)
        self.after_epoch()

    def after_epoch(self) -> None:
        """Masks the weights."""
        for kernel, mask in zip(self._kernels, self._masks, strict=True):
            kernel.assign(kernel * mask)

    def sparsity(self) -> float:
        """Share of the kernels' weights that are masked."""
        kept = sum(float(tf.reduce_sum(mask)) for mask in self._masks)
        return 1 - kept / sum(int(tf.size(mask)) for mask in self._masks)

    def _scores(self, index: int) -> Any:
        kernel = self._kernels[index]
        if self._seed is None:
            return tf.abs(kernel)
        return tf.random.stateless_uniform(kernel.shape, seed=[self._seed, index])

    def _update(self, members: Sequence[int], sparsity: Any) -> None:
        """Gives the masks of `members` one common threshold, as tfmot does for a single weight."""
        scores = [tf.reshape(self._scores(index), [-1]) for index in members]
        together = tf.concat(scores, axis=0)
        size = tf.cast(tf.size(together), tf.float32)
        kept = tf.cast(tf.maximum(tf.round(size * (1 - sparsity)), 1), tf.int32)
        threshold = tf.raw_ops.NthElement(input=together, n=kept - 1, reverse=True)  # as sorting, but in O(n)
        for index, score in zip(members, scores, strict=True):
            mask = tf.cast(score >= threshold, tf.float32)
            self._masks[index].assign(tf.reshape(mask, self._kernels[index].shape))


def zero_signs(model: Any) -> None:
    """Turns -0.0, which masking leaves, into 0.0: to a coder they are two symbols."""
    for variable in model.weights:
        if variable.dtype.is_floating:
            variable.assign(variable + 0.0)
