"""Learning rates and steps of training, compared with Keras' schedules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.backend.session import import_keras
from lightexp.core.training import Training, count_steps_per_epoch
from lightexp.objectives.cross_entropy import CrossEntropy


def compute_rates(**settings: Any) -> Any:
    """Return the learning rate of each step, at seven steps per epoch."""
    return Training(objective=CrossEntropy(), **settings).learning_rates(7)


def test_learning_rates_constant() -> None:
    np.testing.assert_array_equal(compute_rates(epochs=3), np.full(21, 1e-3, np.float32))


@pytest.mark.usefixtures("tensorflow")
def test_learning_rates_cosine_equals_keras() -> None:
    schedule = import_keras().optimizers.schedules.CosineDecay(0.02, decay_steps=28)
    expected = [float(schedule(step)) for step in range(28)]
    np.testing.assert_allclose(
        compute_rates(epochs=4, learning_rate=0.02, learning_rate_schedule="cosine"), expected, rtol=1e-5, atol=1e-9
    )


@pytest.mark.usefixtures("tensorflow")
def test_learning_rates_step_equals_keras() -> None:
    schedule = import_keras().optimizers.schedules.ExponentialDecay(0.5, decay_steps=14, decay_rate=0.3, staircase=True)
    expected = [float(schedule(step)) for step in range(35)]
    rates = compute_rates(epochs=5, learning_rate=0.5, learning_rate_schedule="step", decay_epochs=2, decay_factor=0.3)
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert len(np.unique(rates)) == 3


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_learning_rates_never_rise(schedule: str) -> None:
    rates = compute_rates(epochs=12, learning_rate_schedule=schedule)
    assert rates.dtype == np.float32
    assert rates.shape == (84,)
    assert rates[0] == np.float32(1e-3)
    assert (np.diff(rates) <= 0).all()
    assert rates[-1] >= 0


@given(examples=st.integers(1, 10**6), batch=st.integers(1, 4096))
def test_count_steps_per_epoch_covers_all_examples(examples: int, batch: int) -> None:
    steps = count_steps_per_epoch(examples, batch)
    assert (steps - 1) * batch < examples <= steps * batch
