"""Tests of setting up TensorFlow."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

from lightexp.core.errors import RunFailed


def test_start_tensorflow_refuses_other_threads(tensorflow: None) -> None:
    import tensorflow as tf

    from lightexp.backend import session

    threads = len(os.sched_getaffinity(0))
    session.start_tensorflow(threads)
    with pytest.raises(RunFailed, match=rf"runtime.threads={threads + 1} cannot follow runtime.threads={threads} "):
        session.start_tensorflow(threads + 1)
    assert tf.config.threading.get_intra_op_parallelism_threads() == threads
    assert tf.config.threading.get_inter_op_parallelism_threads() == threads


def test_hide_modules_ends_with_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightexp.backend.session import hide_modules

    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with hide_modules("colorsys", "json"):
        importlib.import_module("json")  # which was imported already
        with pytest.raises(ImportError):
            importlib.import_module("colorsys")
    assert importlib.import_module("colorsys").rgb_to_hsv


@pytest.mark.slow
def test_import_keras_imports_no_pandas_and_no_scipy() -> None:
    code = """
import sys
from lightexp.backend.session import import_keras
import_keras()
loaded = {name.partition(".")[0] for name in sys.modules} & {"keras", "pandas", "pyarrow", "scipy", "sklearn"}
import pandas, scipy.ndimage
print(sorted(loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_operators_are_deterministic(tensorflow: None) -> None:
    from tensorflow.python.framework.config import is_op_determinism_enabled

    assert is_op_determinism_enabled()


def test_import_keras_returns_what_tfmot_prunes(tensorflow: None) -> None:
    import tensorflow_model_optimization as tfmot

    from lightexp.backend.session import import_keras

    net = import_keras().Sequential([import_keras().layers.Dense(2, input_shape=(3,))])
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(net)
    assert isinstance(wrapped, import_keras().Model)


def test_reset_graph_renumbers_layers_and_reseeds(tensorflow: None) -> None:
    from lightexp.backend.session import import_keras, reset_graph

    states = []
    for seed in (1, 1, 2):
        reset_graph(seed)
        net = import_keras().Sequential(
            [import_keras().layers.Dense(2, input_shape=(3,)), import_keras().layers.Dense(2)]
        )
        states.append(([layer.name for layer in net.layers], net.get_weights()[0].tobytes()))
    assert states[0] == states[1] == (["dense", "dense_1"], states[0][1])
    assert states[2][0] == states[0][0]
    assert states[2][1] != states[0][1]
