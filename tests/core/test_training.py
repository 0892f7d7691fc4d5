from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.backend.session import import_keras
from lightexp.core.training import Training, count_steps_per_epoch
from lightexp.objectives.cross_entropy import CrossEntropy


def rates(**settings: Any) -> Any:
    return Training(objective=CrossEntropy(), **settings).learning_rates(7)


def test_learning_rates_constant() -> None:
    np.testing.assert_array_equal(rates(epochs=3), np.full(21, 1e-3, np.float32))


@pytest.mark.usefixtures("tensorflow")
def test_learning_rates_cosine_equals_keras() -> None:
    schedule = import_keras().optimizers.schedules.CosineDecay(0.02, decay_steps=28)
    wanted = [float(schedule(step)) for step in range(28)]
    np.testing.assert_allclose(
        rates(epochs=4, learning_rate=0.02, learning_rate_schedule="cosine"), wanted, rtol=1e-5, atol=1e-9
    )


@pytest.mark.usefixtures("tensorflow")
def test_learning_rates_step_equals_keras() -> None:
    schedule = import_keras().optimizers.schedules.ExponentialDecay(0.5, decay_steps=14, decay_rate=0.3, staircase=True)
    wanted = [float(schedule(step)) for step in range(35)]
    got = rates(epochs=5, learning_rate=0.5, learning_rate_schedule="step", decay_epochs=2, decay_factor=0.3)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert len(np.unique(got)) == 3


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_learning_rates_never_rise(schedule: str) -> None:
    got = rates(epochs=12, learning_rate_schedule=schedule)
    assert got.dtype == np.float32
    assert got.shape == (84,)
    assert got[0] == np.float32(1e-3)
    assert (np.diff(got) <= 0).all()
    assert got[-1] >= 0


@given(examples=st.integers(1, 10**6), batch=st.integers(1, 4096))
def test_count_steps_per_epoch_covers_all_examples(examples: int, batch: int) -> None:
    steps = count_steps_per_epoch(examples, batch)
    assert (steps - 1) * batch < examples <= steps * batch
