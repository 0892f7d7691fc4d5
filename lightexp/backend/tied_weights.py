"""Tied weights: keep zeros zero, and equal weights equal, while a model trains.

After every step the mean of what the optimiser changed on the weights of a shared value is applied to all of them: a
projection onto the codebook, which for plain gradient descent is descent on the shared values themselves (Han et al.
2015, arXiv 1510.00149).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.backend.session import import_tensorflow

tf = import_tensorflow()


@dataclass(frozen=True)
class _SharedValues:
    """A kernel whose weights share values.

    Attributes:
        kernel: The variable.
        values: Variable of the distinct values, `(values,)`.
        weights: What a summed change is multiplied by: 1 / number of weights with the value, or 0 for pinned zeros.
        codes: Index into `values` of each weight, in the kernel's shape.
        order: Permutation that sorts the flat weights by code; sums over sorted segments are six times as fast.
        ordered_codes: The codes in that order.
    """

    kernel: Any
    values: Any
    weights: Any
    codes: Any
    order: Any
    ordered_codes: Any

    def project(self) -> None:
        """Set all weights of each value to the value plus their mean change."""
        # The mean of the changes, not of the weights, which would lose float32's last digits at every step.
        changes = self.kernel - tf.gather(self.values, self.codes)
        changes = tf.gather(tf.reshape(changes, [-1]), self.order)
        self.values.assign_add(tf.math.segment_sum(changes, self.ordered_codes) * self.weights)
        self.kernel.assign(tf.gather(self.values, self.codes))


class TiedWeights:
    """Ties between weights as they are when it is created; a `lightexp.backend.training.WeightConstraint`."""

    last_step = 0

    def __init__(self, kernels: Sequence[Any], zeros: bool, values: bool) -> None:
        """Find the ties.

        Args:
            kernels: Variables.
            zeros: Whether zeros stay zero.
            values: Whether equal weights of one kernel stay equal.
        """
        self._masked: list[tuple[Any, Any]] = []
        self._shared: list[_SharedValues] = []
        zero_count = 0
        for kernel in kernels:
            array = kernel.numpy()
            zero_count += int(np.sum(array == 0))
            distinct, codes, counts = np.unique(array, return_inverse=True, return_counts=True)
            pinned = (distinct == 0) & zeros
            has_ties = len(distinct) - pinned.any() < array.size - (counts * pinned).sum()
            if values and has_ties:
                self._shared.append(_share_values(kernel, distinct, codes.reshape(array.shape), counts, pinned))
            elif pinned.any():
                self._masked.append((kernel, tf.constant((array != 0).astype(np.float32))))
        self._sparsity = zero_count / sum(int(tf.size(kernel)) for kernel in kernels)

    @property
    def variables(self) -> list[Any]:
        """The shared values, the state that changes from step to step."""
        return [shared.values for shared in self._shared]

    def on_step_begin(self, step: Any) -> None:
        """Restore the ties after the step before."""
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Restore the ties."""
        for kernel, mask in self._masked:
            kernel.assign(kernel * mask)
        for shared in self._shared:
            shared.project()

    def compute_sparsity(self) -> float:
        """Return the share of the kernels' weights that were zero at the start."""
        return self._sparsity


def _share_values(
    kernel: Any,
    distinct: NDArray[np.float32],
    codes: NDArray[np.intp],
    counts: NDArray[np.intp],
    pinned: NDArray[np.bool_],
) -> _SharedValues:
    weights = np.where(pinned, 0, 1 / counts).astype(np.float32)
    codes32 = codes.astype(np.int32)
    order = np.argsort(codes32, axis=None, kind="stable").astype(np.int32)
    return _SharedValues(
        kernel,
        tf.Variable(distinct),
        tf.constant(weights),
        tf.constant(codes32),
        tf.constant(order),
        tf.constant(codes32.ravel()[order]),
    )
