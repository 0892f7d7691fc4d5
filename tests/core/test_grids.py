"""Tests of grids: finding the step of which weights are multiples, and the digest of the multiples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.grids import digest_integers, find_channel_steps, find_step


@given(st.integers(0, 2**32), st.integers(1, 200), st.floats(1e-6, 1e3))
def test_find_step_undoes_scaling(seed: int, largest: int, step: float) -> None:
    rng = np.random.default_rng(seed)
    integers = rng.integers(-largest, largest + 1, 30)
    divisor = np.gcd.reduce(integers) or 1
    values = (integers * np.float32(step)).astype(np.float32)
    expected = np.float32(step) * divisor if integers.any() else 1.0
    assert find_step(values) == pytest.approx(expected, rel=1e-5)


def test_find_step_refuses_what_is_on_no_grid() -> None:
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    assert find_step(values) is None
    assert find_step(np.array([1.0, np.nan])) is None
    assert find_step(np.arange(9.0), largest=7) is None
    assert find_step(np.arange(8.0), largest=7) == 1


def test_channels_have_steps_of_their_own() -> None:
    integers = np.random.default_rng(0).integers(-3, 4, (3, 3, 4, 5))
    assert len(set(find_channel_steps(integers * 0.5))) == 1  # type: ignore[arg-type]
    factors = np.array([1, -0.3, 7, 0.01, 0], np.float32)
    np.testing.assert_allclose(find_channel_steps(integers * factors), [1, 0.3, 7, 0.01, 1], rtol=1e-5)  # type: ignore[arg-type]
    assert find_channel_steps(integers + np.sqrt([2, 3, 5, 7])[:, None]) is None


def test_digest_ignores_scales_but_no_integer() -> None:
    integers = np.random.default_rng(1).integers(-3, 4, (3, 3, 4, 5))
    digest = digest_integers(integers.astype(np.int8))
    assert digest is not None
    assert digest_integers(integers * np.array([1, -0.3, 7, 0.01, 2], np.float32)) == digest
    assert digest_integers(integers.reshape(1, 36, 5)) == digest
    assert digest_integers(np.random.default_rng(0).normal(size=(9, 5))) is None
    for changed in (integers[..., ::-1], integers[:-1], np.where(integers == 3, 2, integers)):
        assert digest_integers(changed) != digest
