"""Keeps zeros zero, and equal weights equal, while a model trains.

After every step what a shared value's weights have moved is averaged over them: a projection back onto the codebook,
which for plain gradient descent is descent on the shared values themselves (Han et al. 2015, arXiv 1510.00149).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf


class TiedWeights:
    """What is equal in some kernels, at the time it is made; see `lightexp.backend.training.WeightConstraint`."""

    last_step = 0

    def __init__(self, kernels: Sequence[Any], zeros: bool, values: bool) -> None:
        """Looks at the kernels.

        Args:
            kernels: Variables.
            zeros: Whether zeros stay zero.
            values: Whether weights of one kernel that are equal stay equal.
        """
        self._masked, self._shared = [], []
        zero_count = 0
        for kernel in kernels:
            array = kernel.numpy()
            zero_count += int(np.sum(array == 0))
            found, codes, counts = np.unique(array, return_inverse=True, return_counts=True)
            pinned = (found == 0) & zeros
            if values and len(found) - pinned.any() < array.size - (counts * pinned).sum():
                share = np.where(pinned, 0, 1 / counts).astype(np.float32)
                codes = codes.reshape(array.shape).astype(np.int32)
                order = np.argsort(codes, axis=None, kind="stable").astype(np.int32)
                indices = tf.constant(codes), tf.constant(order), tf.constant(codes.ravel()[order])
                self._shared.append((kernel, tf.Variable(found), tf.constant(share), *indices))
            elif pinned.any():
                self._masked.append((kernel, tf.constant((array != 0).astype(np.float32))))
        self._sparsity = zero_count / sum(int(tf.size(kernel)) for kernel in kernels)

    @property
    def variables(self) -> list[Any]:
        """The shared values."""
        return [found for _, found, *_ in self._shared]

    def on_step_begin(self, step: Any) -> None:
        """Undoes what the step before has moved apart."""
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Brings weights that belong together back together."""
        for kernel, mask in self._masked:
            kernel.assign(kernel * mask)
        for kernel, found, share, codes, order, ordered in self._shared:
            # The mean of the moves, not of the weights: those would lose float32's last digits at every step.
            moved = kernel - tf.gather(found, codes)
            moved = tf.gather(tf.reshape(moved, [-1]), order)  # a sum over sorted segments is six times as fast
            found.assign_add(tf.math.segment_sum(moved, ordered) * share)
            kernel.assign(tf.gather(found, codes))

    def sparsity(self) -> float:
        """Share of the kernels' weights that were zero."""
        return self._sparsity
