"""Masks of weight pruning, on tfmot's schedules and by tfmot's rule, inside the training graph.

tfmot's wrapper (`prune_low_magnitude`) does the same layer by layer, but mutates the layers that it is given, knows no
sparsity of the whole model and refuses layers it has not heard of. What it computes is kept to the bit: at a step that
the schedule names, of n weights the `round(n * (1 - sparsity))` largest stay, at least one; before every
forward pass, and after an epoch, weights are multiplied by their mask. Blocks and N:M are ours: tfmot's blocks take
no convolutions, and its m_by_n no schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lightexp.backend.session import import_tfmot
from lightexp.core.schedule import Schedule


def tabulate_schedule(schedule: Schedule, steps: int) -> tuple[Any, Any]:
    """Whether masks change at each of the steps 0 to `steps`, and to which sparsity, as tfmot's schedule says."""
    sparsity = import_tfmot().sparsity.keras
    if schedule.initial is None:
        rule = sparsity.ConstantSparsity(schedule.final, schedule.begin, schedule.end, schedule.frequency)
    else:
        rule = sparsity.PolynomialDecay(
            schedule.initial, schedule.final, schedule.begin, schedule.end, frequency=schedule.frequency
        )
    due, target = rule(tf.range(steps + 1, dtype=tf.int64))
    return due.numpy(), np.broadcast_to(target.numpy(), steps + 1)


class PruningMasks:
    """Masks over some kernels of a model; see `lightexp.backend.training.WeightConstraint`."""

    def __init__(
        self,
        kernels: Sequence[Any],
        groups: Sequence[tuple[Sequence[int], Schedule]],
        steps: int,
        seed: int | None,
        m: int | None = None,
        block: tuple[int, int] = (1, 1),
    ) -> None:
        """Starts with nothing pruned.

        Args:
            kernels: The variables to prune.
            groups: Which kernels (by index) share one schedule and one threshold.
            steps: All steps of the training.
            seed: Of random scores, fixed for the training; None ranks by magnitude.
            m: Weights in a group along the inputs, of which each keeps as many; None knows no groups.
            block: Rows and columns of the blocks, of a kernel as a matrix, that are kept or pruned whole.
        """
        self._kernels = list(kernels)
        self.variables = self._masks = [tf.Variable(tf.ones_like(k), trainable=False) for k in self._kernels]
        self._groups = []
        self._seed, self._m, self._block = seed, m, block
        self.last_step = 0
        tables: dict[Schedule, tuple[Any, Any]] = {}
        for members, schedule in groups:
            due, target = tables[schedule] = tables.get(schedule) or tabulate_schedule(schedule, steps)
            self._groups.append((list(members), tf.constant(due), tf.constant(target)))
            self.last_step = max(self.last_step, int(np.flatnonzero(due)[-1]) if due.any() else 0)

    def on_step_begin(self, step: Any) -> None:
        """Updates the masks if the schedule says so, and masks the weights."""
        for members, due, target in self._groups:
            tf.cond(due[step], lambda m=members, t=target: self._update(m, t[step]), lambda: None)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
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
        """Gives the masks of `members` one common threshold, as tfmot does for a single weight; or each its groups."""
        if self._m:
            for index in members:
                self._masks[index].assign(select_n_of_m(self._scores(index), self._m, sparsity))
            return
        whole = [self._scores(index) for index in members]
        scores = whole if self._block == (1, 1) else [average_blocks(score, self._block) for score in whole]
        together = tf.concat([tf.reshape(score, [-1]) for score in scores], axis=0)
        size = tf.cast(tf.size(together), tf.float32)
        kept = tf.cast(tf.maximum(tf.round(size * (1 - sparsity)), 1), tf.int32)
        threshold = _largest(together, kept)
        for index, score in zip(members, scores, strict=True):
            mask = tf.cast(score >= threshold, tf.float32)
            shape = self._kernels[index].shape
            if self._block != (1, 1):
                rows, columns = self._block
                mask = tf.repeat(tf.repeat(mask, rows, axis=0), columns, axis=1)
                mask = mask[: shape.num_elements() // shape[-1], : shape[-1]]
            self._masks[index].assign(tf.reshape(mask, shape))


def average_blocks(scores: Any, block: tuple[int, int]) -> Any:
    """Means over blocks of a kernel as a matrix `(inputs, outputs)`; those at the edges may be smaller."""
    matrix = tf.reshape(scores, [-1, scores.shape[-1]])
    rows, columns = block
    pads = [[0, -matrix.shape[0] % rows], [0, -matrix.shape[1] % columns]]

    def sums(values: Any) -> Any:
        padded = tf.pad(values, pads)
        high, wide = padded.shape[0] // rows, padded.shape[1] // columns
        return tf.reduce_sum(tf.reshape(padded, [high, rows, wide, columns]), axis=[1, 3])

    return sums(matrix) / sums(tf.ones_like(matrix))


def select_n_of_m(scores: Any, m: int, sparsity: Any) -> Any:
    """A mask that keeps, of every `m` neighbours along the inputs, those with the highest scores.

    Where `m * (1 - sparsity)` is no whole number, as it is on a schedule's way, some groups keep one more: those to
    which it matters most. At most so many stay, whatever scores are equal.

    Args:
        scores: Not negative, `(..., inputs, outputs)`; a last group may be shorter.
        m: Weights in a group.
        sparsity: Share of zeros, a float32 tensor.
    """
    turned = tf.linalg.matrix_transpose(scores)
    inputs = turned.shape[-1]
    padded = tf.pad(turned, [[0, 0]] * (len(turned.shape) - 1) + [[0, -inputs % m]], constant_values=-1.0)
    groups = tf.reshape(padded, [-1, m])
    rank = tf.argsort(tf.argsort(groups, axis=1, direction="DESCENDING", stable=True), axis=1)
    kept = m * (1 - sparsity)
    whole = tf.floor(kept + 1e-3)  # of float32's rounding
    mask = rank < tf.cast(whole, tf.int32)
    more = tf.cast(tf.round((kept - whole) * tf.cast(tf.shape(groups)[0], tf.float32)), tf.int32)
    next_one = rank == tf.cast(whole, tf.int32)
    candidates = tf.where(next_one, groups, -1.0)
    threshold = _largest(tf.reduce_max(candidates, axis=1), tf.maximum(more, 1))
    mask |= (more > 0) & next_one & (candidates >= threshold)
    return tf.linalg.matrix_transpose(tf.reshape(tf.cast(mask, tf.float32), tf.shape(padded))[..., :inputs])


def _largest(values: Any, place: Any) -> Any:
    """The value at a place, from 1, of those in falling order."""
    return tf.raw_ops.NthElement(input=values, n=place - 1, reverse=True)  # as sorting, but in O(n)


def clear_negative_zeros(model: Any) -> None:
    """Turns -0.0, which masking leaves, into 0.0: to a coder they are two symbols."""
    for variable in model.weights:
        if variable.dtype.is_floating:
            variable.assign(variable + 0.0)
