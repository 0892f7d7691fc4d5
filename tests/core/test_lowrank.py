"""Low-rank factors of kernels, compared with the optimum that NumPy's SVD gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.lowrank import Factors, Ranks, Spectra, highest_ranks, multiply_factors, ranks_for_ratio

SHAPES = st.sampled_from(
    [(7, 5), (4, 9), (1, 1, 6, 8), (3, 3, 1, 5), (3, 3, 6, 4), (3, 1, 5, 16), (5, 6, 7), (2, 9, 1)]
)


def make_kernel(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def compute_singular_values(kernel: np.ndarray, axis: int) -> np.ndarray:
    """Return the singular values of a kernel unfolded along an axis."""
    rows = np.moveaxis(kernel.astype(np.float64), axis, 0).reshape(kernel.shape[axis], -1)
    return np.linalg.svd(rows, compute_uv=False)


def compute_error(kernel: np.ndarray, factors: Factors) -> float:
    return float(np.sum((kernel - multiply_factors(factors)) ** 2))


@given(rank=st.integers(1, 5), seed=st.integers(0, 99), shape=st.sampled_from([(7, 5), (5, 9), (1, 1, 6, 8)]))
def test_factors_of_a_matrix_are_optimal(rank: int, seed: int, shape: tuple[int, ...]) -> None:
    kernel = make_kernel(shape, seed)
    spectra = Spectra(kernel)
    reduce, core, expand = factors = spectra.factors(Ranks(shape[-2], rank))
    optimum = float(np.sum(compute_singular_values(kernel, -1)[rank:] ** 2))
    assert compute_error(kernel, factors) == pytest.approx(optimum, abs=1e-9)
    assert spectra.compute_energy(factors) == pytest.approx(1 - optimum / np.sum(kernel.astype(float) ** 2))
    assert reduce is None
    assert core.shape == (*shape[:-1], rank) or expand is None
    if expand is not None:  # each contains the square root of every singular value
        norms = [np.linalg.norm(core.reshape(-1, rank), axis=0), np.linalg.norm(expand, axis=1)]
        assert norms[0] == pytest.approx(norms[1])


@given(shape=SHAPES, seed=st.integers(0, 99), ratio=st.floats(0.01, 1))
def test_factors_error_is_bounded_by_both_sides(shape: tuple[int, ...], seed: int, ratio: float) -> None:
    kernel, ranks = make_kernel(shape, seed), ranks_for_ratio(shape, ratio)
    assert all(1 <= rank <= high for rank, high in zip(ranks, highest_ranks(shape), strict=True))
    lost = [
        np.sum(compute_singular_values(kernel, axis)[rank:] ** 2)
        for axis, rank in ((-2, ranks.inputs), (-1, ranks.outputs))
    ]
    if ranks.inputs == shape[-2]:
        lost[0] = 0
    squared_error = compute_error(kernel, Spectra(kernel).factors(ranks))
    assert max(lost) - 1e-9 <= squared_error <= sum(lost) + 1e-9  # De Lathauwer et al. 2000, property 10


@given(shape=SHAPES, seed=st.integers(0, 99))
def test_factors_of_full_rank_are_exact(shape: tuple[int, ...], seed: int) -> None:
    kernel = make_kernel(shape, seed)
    assert ranks_for_ratio(shape, 1) == highest_ranks(shape)
    assert compute_error(kernel, Spectra(kernel).factors(highest_ranks(shape))) < 1e-10


@given(shape=SHAPES, seed=st.integers(0, 99), energy=st.floats(0.05, 1))
def test_ranks_keep_the_energy(shape: tuple[int, ...], seed: int, energy: float) -> None:
    spectra = Spectra(make_kernel(shape, seed))
    ranks = spectra.ranks(energy)
    assert spectra.compute_energy(spectra.factors(ranks)) >= energy - 1e-9
    if len(shape) == 2 and ranks.outputs > 1:  # a lower rank keeps too little
        assert spectra.compute_energy(spectra.factors(Ranks(ranks.inputs, ranks.outputs - 1))) < energy


def test_ranks_find_a_low_rank() -> None:
    rank_one = np.outer(np.arange(1, 7), np.arange(1, 5)).astype(np.float32)
    assert Spectra(rank_one).ranks(0.999999) == (6, 1)
    assert Spectra(np.zeros((3, 3, 8, 4), np.float32)).ranks(1.0) == (1, 1)
    zeros = Spectra(np.zeros((6, 4), np.float32))
    assert not multiply_factors(zeros.factors(Ranks(6, 2))).any()
    assert ranks_for_ratio((3, 3, 4, 64), 0.5) == (4, 18)
    # The inputs of matrices, and few input channels, keep their rank; a rank may be lower than the channels.
    assert [highest_ranks(s) for s in ((9, 4), (1, 1, 9, 4), (3, 3, 4, 64), (3, 3, 64, 1), (3, 3, 8, 8))] == [
        *((9, 4), (9, 4), (4, 36), (9, 1), (8, 8)),
    ]
