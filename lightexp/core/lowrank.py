"""Low-rank factors of kernels, in NumPy: truncated SVD of matrices, Tucker-2 decomposition of convolutions.

Kernels have the layout of Keras, `(..., inputs, outputs)`. `reduce (inputs, a)` maps the input channels to fewer, `core
(..., a, b)` is the kernel on those, and `expand (b, outputs)` maps its fewer outputs to all of them. A kernel of one
position (dense, 1x1) is a matrix, which needs no `reduce`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_MAX_UNREDUCED_INPUTS = 4  # so few input channels, such as colours, are not reduced
_NOISE = 1e-7  # a singular value below this share of the largest is a rounding error


class Ranks(NamedTuple):
    """Number of input and output channels of the core."""

    inputs: int
    outputs: int


class Factors(NamedTuple):
    """The factors of a kernel; None is the identity, on a side that keeps all its channels."""

    reduce: Array | None
    core: Array
    expand: Array | None


def highest_ranks(shape: Sequence[int]) -> Ranks:
    """Return the highest ranks of a kernel of this shape; on a side that is not reduced, its number of channels."""
    positions, inputs, outputs = math.prod(shape[:-2]), *shape[-2:]
    input_rank = min(inputs, positions * outputs) if _has_reducible_inputs(shape) else inputs
    return Ranks(input_rank, min(outputs, positions * inputs))


def ranks_for_ratio(shape: Sequence[int], ratio: float) -> Ranks:
    """Return the share `ratio` of the highest ranks, rounded, at least 1."""
    highest = highest_ranks(shape)
    part = Ranks(*(max(1, math.floor(ratio * rank + 0.5)) for rank in highest))
    return part if _has_reducible_inputs(shape) else part._replace(inputs=shape[-2])


class Spectra:
    """The higher-order SVD of one kernel along its inputs and its outputs (De Lathauwer et al. 2000)."""

    def __init__(self, kernel: NDArray[np.floating]) -> None:
        """Compute the decomposition in float64."""
        self._kernel = kernel.astype(np.float64)
        self._outputs = _decompose(self._kernel, -1)
        self._inputs = _decompose(self._kernel, -2) if _has_reducible_inputs(kernel.shape) else None

    def ranks(self, energy: float) -> Ranks:
        """Return the lowest ranks that keep at least the share `energy` of the kernel's squared norm.

        Each truncated side may lose an equal part of the rest; both together lose at most the sum.
        """
        lost = (1 - energy) / (2 if self._inputs else 1)
        inputs = _find_lowest_rank(self._inputs[1], lost) if self._inputs else self._kernel.shape[-2]
        return Ranks(inputs, _find_lowest_rank(self._outputs[1], lost))

    def compute_energy(self, factors: Factors) -> float:
        """Return the share of the kernel's squared norm that its factors keep."""
        lost = np.sum((self._kernel - multiply_factors(factors)) ** 2)
        return float(1 - lost / max(np.sum(self._kernel**2), np.finfo(np.float64).tiny))

    def factors(self, ranks: Ranks) -> Factors:
        """Return the kernel's factors; those of a matrix are the best of their rank (Eckart and Young 1936)."""
        core, reduce, expand = self._kernel, None, None
        if self._inputs and ranks.inputs < core.shape[-2]:
            reduce = self._inputs[0][:, : ranks.inputs]
            core = np.einsum("...io,ia->...ao", core, reduce)
        if ranks.outputs < core.shape[-1]:
            vectors, values = self._outputs[0][:, : ranks.outputs], self._outputs[1][: ranks.outputs]
            # Both factors get the root of the singular values, so that the channels between them are of similar size.
            root = np.sqrt(np.where(values > _NOISE * values[0], values, 1))
            core, expand = core @ (vectors / root), (vectors * root).T
        return Factors(reduce, core, expand)


def multiply_factors(factors: Factors) -> Array:
    """Return the kernel that the factors approximate."""
    core = factors.core if factors.expand is None else factors.core @ factors.expand
    return core if factors.reduce is None else np.einsum("...ao,ia->...io", core, factors.reduce)


def _has_reducible_inputs(shape: Sequence[int]) -> bool:
    return math.prod(shape[:-2]) > 1 and shape[-2] > _MAX_UNREDUCED_INPUTS


def _decompose(kernel: Array, axis: int) -> tuple[Array, Array]:
    """Return the left singular vectors and the singular values of a kernel unfolded along an axis."""
    rows = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
    vectors, values, _ = np.linalg.svd(rows, full_matrices=False)
    return vectors, values


def _find_lowest_rank(values: Array, lost: float) -> int:
    """Return the lowest rank whose truncated singular values have at most the share `lost` of all squares."""
    tails = np.append(np.cumsum(values[::-1] ** 2)[::-1], 0)  # lost at each rank, from 0
    return max(1, int(np.argmax(tails <= lost * tails[0] + np.finfo(np.float64).tiny)))
