from __future__ import annotations

import os

import pytest

from lightexp.core.errors import RunFailed


def test_threads_are_taken_once(tensorflow: None) -> None:
    import tensorflow as tf

    from lightexp.backend import session

    threads = len(os.sched_getaffinity(0))
    session.start_tensorflow(threads)
    with pytest.raises(RunFailed, match=rf"runtime.threads={threads + 1} cannot follow runtime.threads={threads} "):
        session.start_tensorflow(threads + 1)
    assert tf.config.threading.get_intra_op_parallelism_threads() == threads
    assert tf.config.threading.get_inter_op_parallelism_threads() == threads


def test_operators_are_deterministic(tensorflow: None) -> None:
    from tensorflow.python.framework.config import is_op_determinism_enabled

    assert is_op_determinism_enabled()


def test_keras_is_the_one_that_tfmot_prunes(tensorflow: None) -> None:
    import tensorflow_model_optimization as tfmot

    from lightexp.backend.session import import_keras

    net = import_keras().Sequential([import_keras().layers.Dense(2, input_shape=(3,))])
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(net)
    assert isinstance(wrapped, import_keras().Model)


def test_fresh_forgets_layer_numbers_and_reseeds(tensorflow: None) -> None:
    from lightexp.backend.session import import_keras, reset_graph

    found = []
    for seed in (1, 1, 2):
        reset_graph(seed)
        net = import_keras().Sequential(
            [import_keras().layers.Dense(2, input_shape=(3,)), import_keras().layers.Dense(2)]
        )
        found.append(([layer.name for layer in net.layers], net.get_weights()[0].tobytes()))
    assert found[0] == found[1] == (["dense", "dense_1"], found[0][1])
    assert found[2][0] == found[0][0]
    assert found[2][1] != found[0][1]
