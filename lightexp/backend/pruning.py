"""Pruning masks that follow tfmot's schedules and tfmot's rule inside the training graph.

tfmot's wrapper (`prune_low_magnitude`) changes the layers that it wraps, has no sparsity of a model as a unit and
refuses layers that it does not know. The masks here equal tfmot's bit by bit where no two weights are equal: at each
step that the schedule names, the `round(n * (1 - sparsity))` largest of n weights stay, at least one; weights are
multiplied by their mask before every forward pass and after an epoch. Of equal weights tfmot keeps all. Blocks and N:M
patterns are lightexp's own: tfmot's blocks do not take convolutions, and its `sparsity_m_by_n` ignores the schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightexp.backend.session import import_tensorflow, import_tfmot
from lightexp.core.schedule import Schedule

tf = import_tensorflow()

_ROUNDING = 1e-3  # of float32, when a number of weights that is computed should be an integer


def tabulate_schedule(schedule: Schedule, steps: int) -> tuple[Any, Any]:
    """Tabulate tfmot's schedule over a training.

    Args:
        schedule: The schedule.
        steps: The last step.

    Returns:
        Whether masks are updated at each of the steps 0 to `steps`, and the sparsity to reach, `(steps + 1,)` each.
    """
    sparsity = import_tfmot().sparsity.keras
    if schedule.initial is None:
        rule = sparsity.ConstantSparsity(schedule.final, schedule.begin, schedule.end, schedule.frequency)
    else:
        rule = sparsity.PolynomialDecay(
            schedule.initial, schedule.final, schedule.begin, schedule.end, frequency=schedule.frequency
        )
    updates, target = rule(tf.range(steps + 1, dtype=tf.int64))
    return updates.numpy(), np.broadcast_to(target.numpy(), steps + 1)


class PruningMasks:
    """Masks over some kernels of a model; a `lightexp.backend.training.WeightConstraint`."""

    def __init__(
        self,
        kernels: Sequence[Any],
        groups: Sequence[tuple[Sequence[int], Schedule]],
        steps: int,
        seed: int | None,
        m: int | None = None,
        block: tuple[int, int] = (1, 1),
    ) -> None:
        """Create masks that keep all weights.

        Args:
            kernels: The variables to prune.
            groups: Kernels (by index) that share one schedule and one threshold.
            steps: Number of steps of the training.
            seed: Seed of random scores, fixed for the training; None ranks by magnitude.
            m: Size of groups along the inputs, each of which keeps the same number of weights. Defaults to None: no
                such groups.
            block: Rows and columns of the blocks, in a kernel seen as a matrix, that are kept or pruned together.
                Defaults to single weights.
        """
        self._kernels = list(kernels)
        self._masks = [tf.Variable(tf.ones_like(k), trainable=False) for k in self._kernels]
        self._groups: list[tuple[list[int], Any, Any]] = []
        self._seed, self._m, self._block = seed, m, block
        self.last_step = 0
        tables: dict[Schedule, tuple[Any, Any]] = {}
        for members, schedule in groups:
            if schedule not in tables:
                tables[schedule] = tabulate_schedule(schedule, steps)
            updates, target = tables[schedule]
            self._groups.append((list(members), tf.constant(updates), tf.constant(target)))
            if updates.any():
                self.last_step = max(self.last_step, int(np.flatnonzero(updates)[-1]))

    @property
    def variables(self) -> list[Any]:
        """The masks, the state that changes from step to step."""
        return self._masks

    def on_step_begin(self, step: Any) -> None:
        """Update the masks if the schedule says so, and mask the weights."""
        for members, updates, target in self._groups:
            tf.cond(updates[step], lambda m=members, t=target: self._update(m, t[step]), lambda: None)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Mask the weights."""
        for kernel, mask in zip(self._kernels, self._masks, strict=True):
            kernel.assign(kernel * mask)

    def compute_sparsity(self) -> float:
        """Return the share of the kernels' weights that are masked."""
        remaining = sum(float(tf.reduce_sum(mask)) for mask in self._masks)
        return 1 - remaining / sum(int(tf.size(mask)) for mask in self._masks)

    def _scores(self, index: int) -> Any:
        kernel = self._kernels[index]
        if self._seed is None:
            return tf.abs(kernel)
        return tf.random.stateless_uniform(kernel.shape, seed=[self._seed, index])

    def _update(self, members: Sequence[int], sparsity: Any) -> None:
        """Compute new masks: by one threshold for all `members`, as tfmot does for one kernel, or by groups of m."""
        if self._m:
            for index in members:
                self._masks[index].assign(select_n_of_m(self._scores(index), self._m, sparsity))
            return
        scores = [self._scores(index) for index in members]
        if self._block != (1, 1):
            scores = [average_blocks(score, self._block) for score in scores]
        all_scores = tf.concat([tf.reshape(score, [-1]) for score in scores], axis=0)
        size = tf.cast(tf.size(all_scores), tf.float32)
        remaining = tf.cast(tf.maximum(tf.round(size * (1 - sparsity)), 1), tf.int32)
        masks = tf.split(select_largest(all_scores, remaining), [tf.size(score) for score in scores])
        for index, score, flat_mask in zip(members, scores, masks, strict=True):
            mask = tf.reshape(flat_mask, tf.shape(score))
            shape = self._kernels[index].shape
            if self._block != (1, 1):
                rows, columns = self._block
                mask = tf.repeat(tf.repeat(mask, rows, axis=0), columns, axis=1)
                mask = mask[: shape.num_elements() // shape[-1], : shape[-1]]
            self._masks[index].assign(tf.reshape(mask, shape))


def average_blocks(scores: Any, block: tuple[int, int]) -> Any:
    """Return the mean score of each block of a kernel seen as a matrix `(inputs, outputs)`.

    Args:
        scores: `(..., inputs, outputs)`; all axes but the last count as inputs.
        block: Rows and columns of a block; blocks at the edges may be smaller.

    Returns:
        `(rows of blocks, columns of blocks)`.
    """
    matrix = tf.reshape(scores, [-1, scores.shape[-1]])
    rows, columns = block
    padding = [[0, -matrix.shape[0] % rows], [0, -matrix.shape[1] % columns]]

    def sum_blocks(values: Any) -> Any:
        padded = tf.pad(values, padding)
        height, width = padded.shape[0] // rows, padded.shape[1] // columns
        return tf.reduce_sum(tf.reshape(padded, [height, rows, width, columns]), axis=[1, 3])

    return sum_blocks(matrix) / sum_blocks(tf.ones_like(matrix))


def select_n_of_m(scores: Any, m: int, sparsity: Any) -> Any:
    """Return a mask that keeps the highest scores among every `m` neighbours along the inputs.

    Where `m * (1 - sparsity)` is not an integer, as while a schedule rises, some groups keep one weight more: those
    whose next score is highest. With equal scores, fewer weights than that may stay, never more.

    Args:
        scores: Not negative, `(..., inputs, outputs)`; the last group may be shorter.
        m: Weights in a group.
        sparsity: Share of zeros, a float32 tensor.

    Returns:
        Float32 mask in the shape of `scores`.
    """
    transposed = tf.linalg.matrix_transpose(scores)
    inputs = transposed.shape[-1]
    padding = [[0, 0]] * (len(transposed.shape) - 1) + [[0, -inputs % m]]
    padded = tf.pad(transposed, padding, constant_values=-1.0)
    groups = tf.reshape(padded, [-1, m])
    rank = tf.argsort(tf.argsort(groups, axis=1, direction="DESCENDING", stable=True), axis=1)
    remaining = m * (1 - sparsity)
    in_all_groups = tf.floor(remaining + _ROUNDING)
    mask = rank < tf.cast(in_all_groups, tf.int32)
    extra = tf.cast(tf.round((remaining - in_all_groups) * tf.cast(tf.shape(groups)[0], tf.float32)), tf.int32)
    is_next = rank == tf.cast(in_all_groups, tf.int32)
    candidates = tf.where(is_next, groups, -1.0)
    threshold = _find_nth_largest(tf.reduce_max(candidates, axis=1), tf.maximum(extra, 1))
    mask |= (extra > 0) & is_next & (candidates >= threshold)
    return tf.linalg.matrix_transpose(tf.reshape(tf.cast(mask, tf.float32), tf.shape(padded))[..., :inputs])


def select_largest(scores: Any, count: Any) -> Any:
    """Return a mask that keeps the `count` largest scores.

    Of equal scores, as binary and ternary weights have, those stay that a fixed shuffle of the positions puts last:
    keeping the first positions would prune the last inputs entirely.

    Args:
        scores: `(n,)`.
        count: Number of scores to keep, from 1 to n, an int32 tensor.

    Returns:
        Float32 mask `(n,)`.
    """
    threshold = _find_nth_largest(scores, count)
    larger, equal = scores > threshold, tf.equal(scores, threshold)
    missing = count - tf.math.count_nonzero(larger, dtype=tf.int32)
    order = tf.random.experimental.stateless_shuffle(tf.range(tf.size(scores)), seed=[0, 0])
    last = _find_nth_largest(tf.where(equal, order, -1), missing)
    return tf.cast(larger | (equal & (order >= last)), tf.float32)


def _find_nth_largest(values: Any, n: Any) -> Any:
    """Return the n-th largest of `values`, counted from 1, in linear time."""
    return tf.raw_ops.NthElement(input=values, n=n - 1, reverse=True)


def clear_negative_zeros(model: Any) -> None:
    """Replace -0.0, which masking produces, by 0.0 in all weights; an entropy coder sees them as two symbols."""
    for variable in model.weights:
        if variable.dtype.is_floating:
            variable.assign(variable + 0.0)
