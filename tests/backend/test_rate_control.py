"""Tests of the control of the price of a bit: by an error of the size, and by the threshold of the last rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def make_weights(control: Any, seed: int = 0) -> Any:
    import tensorflow as tf

    from lightexp.backend.grid_weights import GridTensor, GridWeights

    variable = tf.Variable(np.random.default_rng(seed).laplace(size=(200, 30)).astype(np.float32))
    return GridWeights([GridTensor("w", variable, np.array(4, np.float32))], 1.0, 10, control), variable


@pytest.mark.parametrize(("target", "factor"), [(0.5, 1), (2.0, -1)])
def test_price_rises_while_the_file_is_too_large(tensorflow: None, target: float, factor: int) -> None:
    from lightexp.backend.rate_control import RateControl

    size = make_weights(None)[0]
    size.on_epoch_end()
    size = size.estimate_bytes() + 100
    weights, _ = make_weights(RateControl(target * size, lambda: round(size), 2, 6))
    prices = []
    for _ in range(6):
        weights.on_epoch_end()
        prices.append(float(weights.rate.numpy()))
    assert prices[0] == 1  # the ramp is not over
    assert (factor * np.diff(prices) > 0)[1:].all()
    assert prices[1] == pytest.approx(np.exp(factor * 0.7), rel=1e-3)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_threshold_reaches_the_size(tensorflow: None, factor: float) -> None:
    from lightexp.backend.rate_control import RateControl

    weights, variable = make_weights(None)
    weights.on_epoch_end()
    rounded = variable.numpy()
    target = factor * weights.estimate_bytes()
    control = RateControl(target, lambda: round(weights.estimate_bytes()), 0, 1)
    assert control.finish(weights) == pytest.approx(target, rel=0.011)
    levels = variable.numpy() / 4
    np.testing.assert_array_equal(levels, np.round(levels))
    large = np.abs(rounded) > 4.1
    np.testing.assert_array_equal(variable.numpy()[large], rounded[large])
    assert (np.count_nonzero(levels) > np.count_nonzero(rounded)) == (factor > 1)
