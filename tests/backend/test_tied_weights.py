"""Tests of tied weights: equal weights stay equal while they are trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightexp.core.clustering import cluster_weights
from tests.backend import tiny_keras


def quantize_kernels(net: Any) -> None:
    """Give each kernel of a model four values, one of which is zero."""
    for number, kernel in enumerate(tiny_keras.list_kernels(net)):
        array = kernel.numpy()
        array[np.abs(array) < np.median(np.abs(array))] = 0
        kernel.assign(cluster_weights(array, 4, "density", np.random.default_rng(number)))


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adamw"])
@pytest.mark.parametrize("values", [True, False])
def test_equal_weights_stay_equal_in_training(tensorflow: None, optimizer: str, values: bool) -> None:
    from lightexp.backend.tied_weights import TiedWeights
    from lightexp.backend.training import Trainer

    net = tiny_keras.make_model("norm", l2=1e-3)
    quantize_kernels(net)
    before = [kernel.numpy() for kernel in tiny_keras.list_kernels(net)]
    ties = TiedWeights(tiny_keras.list_kernels(net), zeros=True, values=values)
    history = Trainer(
        net, tiny_keras.make_settings(optimizer=optimizer), tiny_keras.make_data(), 5, constraint=ties
    ).run(tiny_keras.CountingProgress())
    for old, kernel in zip(before, tiny_keras.list_kernels(net), strict=True):
        new = kernel.numpy()
        np.testing.assert_array_equal(new[old == 0], 0)
        groups = [len(np.unique(new[old == value])) for value in np.unique(old) if value]
        assert groups == [1] * len(groups) if values else min(groups) > 1
        assert (new[old != 0] != old[old != 0]).any()
    assert history["loss"][-1] < history["loss"][0]
    assert history["sparsity"][-1] == pytest.approx(np.mean(np.concatenate([b.ravel() == 0 for b in before])))


def test_zeros_move_unless_they_are_tied(tensorflow: None) -> None:
    import tensorflow as tf

    from lightexp.backend.tied_weights import TiedWeights

    kernel = tf.Variable([[0.0, 0.0, 1.0], [2.0, 2.0, 2.0]])
    ties = TiedWeights([kernel], zeros=False, values=True)
    kernel.assign_add([[1.0, 3.0, 5.0], [3.0, 0.0, 0.0]])
    ties.on_step_begin(tf.constant(1, tf.int64))
    np.testing.assert_allclose(kernel.numpy(), [[2, 2, 6], [3, 3, 3]])
    pinned = tf.Variable([[0.0, 0.0, 1.0], [1.0, 2.0, 2.0]])
    ties = TiedWeights([pinned], zeros=True, values=True)
    pinned.assign_add([[1.0, 3.0, 5.0], [3.0, 0.0, 1.0]])
    ties.on_epoch_end()
    np.testing.assert_allclose(pinned.numpy(), [[0, 0, 5], [5, 2.5, 2.5]])
