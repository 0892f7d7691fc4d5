"""Kernels as products of smaller ones, as NumPy: truncated SVD of matrices, Tucker-2 of convolutions.

Kernels are laid out as Keras does, `(..., inputs, outputs)`. The input channels are brought to fewer, then the kernel
proper works on those and gives fewer outputs, which are brought to all of them: `reduce (inputs, a)`,
`core (..., a, b)`, `expand (b, outputs)`. A kernel of one position (dense, 1x1) is a matrix, which needs no `reduce`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_FEW = 4  # input channels that stay as they are, such as colours
_NOISE = 1e-7  # a singular value's share of the first below which it is rounding


class Ranks(NamedTuple):
    """How many channels the core has."""

    inputs: int
    outputs: int


class Factors(NamedTuple):
    """What a kernel becomes; None stands for the identity, where that side has all its channels."""

    reduce: Array | None
    core: Array
    expand: Array | None


def highest_ranks(shape: Sequence[int]) -> Ranks:
    """The highest ranks that a kernel of this shape can have; the inputs' number where that side stays as it is."""
    positions, inputs, outputs = math.prod(shape[:-2]), *shape[-2:]
    whole = positions == 1 or inputs <= _FEW
    return Ranks(inputs if whole else min(inputs, positions * outputs), min(outputs, positions * inputs))


def ranks_for_ratio(shape: Sequence[int], ratio: float) -> Ranks:
    """The share `ratio` of the highest ranks, rounded, at least 1."""
    highest = highest_ranks(shape)
    part = Ranks(*(max(1, math.floor(ratio * rank + 0.5)) for rank in highest))
    return part if _reducible(shape) else part._replace(inputs=shape[-2])


class Spectra:
    """The higher-order SVD of one kernel along its inputs and its outputs (De Lathauwer et al. 2000)."""

    def __init__(self, kernel: NDArray[np.floating]) -> None:
        """Computes it in float64."""
        self._kernel = kernel.astype(np.float64)
        self._outputs = _along(self._kernel, -1)
        self._inputs = _along(self._kernel, -2) if _reducible(kernel.shape) else None

    def ranks(self, energy: float) -> Ranks:
        """The lowest ranks that keep at least the share `energy` of the kernel's squared norm.

        Each truncated side may lose an equal part of the rest; what both lose is at most the sum.
        """
        lost = (1 - energy) / (2 if self._inputs else 1)
        inputs = _lowest(self._inputs[1], lost) if self._inputs else self._kernel.shape[-2]
        return Ranks(inputs, _lowest(self._outputs[1], lost))

    def kept(self, factors: Factors) -> float:
        """The share of the kernel's squared norm that its factors have."""
        lost = np.sum((self._kernel - multiply_factors(factors)) ** 2)
        return float(1 - lost / max(np.sum(self._kernel**2), np.finfo(np.float64).tiny))

    def factors(self, ranks: Ranks) -> Factors:
        """The kernel's factors; of a matrix the best there are of this rank (Eckart and Young 1936)."""
        core, reduce, expand = self._kernel, None, None
        if self._inputs and ranks.inputs < core.shape[-2]:
            reduce = self._inputs[0][:, : ranks.inputs]
            core = np.einsum("...io,ia->...ao", core, reduce)
        if ranks.outputs < core.shape[-1]:
            vectors, values = self._outputs[0][:, : ranks.outputs], self._outputs[1][: ranks.outputs]
            # Both bear the root of the singular values, so that no channel between them is much larger than others.
            root = np.sqrt(np.where(values > _NOISE * values[0], values, 1))
            core, expand = core @ (vectors / root), (vectors * root).T
        return Factors(reduce, core, expand)


def multiply_factors(factors: Factors) -> Array:
    """The kernel that the factors stand for."""
    core = factors.core if factors.expand is None else factors.core @ factors.expand
    return core if factors.reduce is None else np.einsum("...ao,ia->...io", core, factors.reduce)


def _reducible(shape: Sequence[int]) -> bool:
    return math.prod(shape[:-2]) > 1 and shape[-2] > _FEW


def _along(kernel: Array, axis: int) -> tuple[Array, Array]:
    """Left singular vectors and singular values of a kernel unfolded along an axis."""
    rows = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
    vectors, values, _ = np.linalg.svd(rows, full_matrices=False)
    return vectors, values


def _lowest(values: Array, lost: float) -> int:
    """How many of the first values there must be, so that the rest has at most the share `lost` of the squares."""
    tails = np.append(np.cumsum(values[::-1] ** 2)[::-1], 0)  # what is lost after each rank
    return max(1, int(np.argmax(tails <= lost * tails[0] + np.finfo(np.float64).tiny)))
