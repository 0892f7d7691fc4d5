"""Tests of the control of the price of a bit: by an error of the size, and by the threshold of the last rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightexp.core.primary_metric import PrimaryMetric


def make_weights(control: Any, seed: int = 0) -> Any:
    import tensorflow as tf

    from lightexp.backend.grid_weights import GridTensor, GridWeights

    variable = tf.Variable(np.random.default_rng(seed).laplace(size=(200, 30)).astype(np.float32))
    return GridWeights([GridTensor("w", variable, np.array(4, np.float32))], 1.0, 10, control), variable


@pytest.mark.parametrize(("target", "factor"), [(0.5, 1), (2.0, -1)])
def test_price_rises_while_the_file_is_too_large(tensorflow: None, target: float, factor: int) -> None:
    from lightexp.backend.rate_control import SizeControl

    size = make_weights(None)[0]
    size.on_epoch_end()
    size = size.estimate_bytes() + 100
    weights, _ = make_weights(SizeControl(target * size, lambda: round(size), 2, 6))
    prices = []
    for _ in range(6):
        weights.on_epoch_end()
        prices.append(float(weights.rate.numpy()))
    assert prices[0] == 1  # the ramp is not over
    assert (factor * np.diff(prices) > 0)[1:].all()
    assert prices[1] == pytest.approx(np.exp(factor * 0.7), rel=1e-3)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_threshold_reaches_the_size(tensorflow: None, factor: float) -> None:
    from lightexp.backend.rate_control import SizeControl

    weights, variable = make_weights(None)
    weights.on_epoch_end()
    rounded = variable.numpy()
    target = factor * weights.estimate_bytes()
    control = SizeControl(target, lambda: round(weights.estimate_bytes()), 0, 1)
    assert control.finish(weights) == pytest.approx(target, rel=0.011)
    levels = variable.numpy() / 4
    np.testing.assert_array_equal(levels, np.round(levels))
    large = np.abs(rounded) > 4.1
    np.testing.assert_array_equal(variable.numpy()[large], rounded[large])
    assert (np.count_nonzero(levels) > np.count_nonzero(rounded)) == (factor > 1)


@pytest.mark.parametrize(("excess", "factor"), [(0.001, 1), (-0.02, -1)])
def test_price_follows_the_accuracy(tensorflow: None, excess: float, factor: int) -> None:
    from lightexp.backend.rate_control import QualityControl

    weights, _ = make_weights(QualityControl(PrimaryMetric(), 0.9, lambda: 0.9 + excess, 2, 6))
    prices = []
    for _ in range(5):
        weights.on_epoch_end()
        prices.append(float(weights.rate.numpy()))
    assert prices[0] == 1
    assert (factor * np.diff(prices) > 0).all()


def test_weights_become_zero_as_an_error_allows(tensorflow: None) -> None:
    from lightexp.backend.rate_control import QualityControl

    weights, variable = make_weights(None)
    primary = PrimaryMetric("rmse", "min", 80.0, "mm", is_share=False)
    control = QualityControl(
        primary, primary.worsen(60.0, 12.0), lambda: float(80 * np.mean(variable.numpy() == 0)), 0, 1
    )
    error = control.finish(weights)
    assert error == pytest.approx(80 * np.mean(variable.numpy() == 0)) == pytest.approx(72, abs=1) and error <= 72
    assert control.is_missed(72.1) and not control.is_missed(71.9)


@pytest.mark.parametrize(("floor", "reached"), [(0.08, 0.08), (0.2, 0.135)])
def test_weights_become_zero_as_the_accuracy_allows(tensorflow: None, floor: float, reached: float) -> None:
    """The share of non-zeros stands for an accuracy; 13.5% of the weights are not rounded to zero at first."""
    from lightexp.backend.rate_control import QualityControl

    weights, variable = make_weights(None)
    control = QualityControl(PrimaryMetric(), floor, lambda: float(np.mean(variable.numpy() != 0)), 0, 1)
    share = control.finish(weights)
    assert share == np.mean(variable.numpy() != 0)
    assert share == pytest.approx(reached, abs=0.01)
    assert share >= floor or floor == 0.2
