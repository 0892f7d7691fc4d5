"""TensorFlow, set up once: threads, determinism, memory, quiet.

Everything that needs TensorFlow comes through here, so that legacy Keras and op determinism are always on
before anything is built.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from lightexp.backend.stderr import silence_stderr
from lightexp.core.errors import RunFailed

_threads: int | None = None


def start_tensorflow(threads: int) -> None:
    """Imports TensorFlow and sets it up; a second call changes nothing.

    Args:
        threads: For the computation of one operator, and for operators side by side.

    Raises:
        RunFailed: If this process already computes with another number of threads.
    """
    global _threads
    if _threads is None:
        tf = _import()
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        except RuntimeError:
            raise RunFailed(
                "TensorFlow has computed in this process already, and takes its threads only once. "
                "Call lightexp before you use TensorFlow, or in a process of its own."
            ) from None
        with silence_stderr():
            gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        tf.config.experimental.enable_op_determinism()
        _threads = threads
    elif _threads != threads:
        raise RunFailed(
            f"runtime.threads={threads} cannot follow runtime.threads={_threads} in one process, because TensorFlow "
            "takes its threads once. Run it as a command of its own."
        )


def get_threads() -> int | None:
    """Return the number of threads that TensorFlow was set up with in this process; None before that."""
    return _threads


@cache
def _import() -> Any:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    gc.disable()  # a quarter of the import's time would go to collections that find nothing
    with silence_stderr():
        import tensorflow as tf
        import tf_keras  # noqa: F401

    gc.freeze()  # no collection looks through TensorFlow's own objects, which at exit takes most of a second
    gc.enable()
    tf.get_logger().setLevel("ERROR")
    return tf


def import_keras() -> Any:
    """The legacy Keras that tfmot works with."""
    _import()
    import tf_keras

    return tf_keras


@contextmanager
def hide_keras_3() -> Iterator[None]:
    """An import of Keras 3 fails at once meanwhile, unless it has been imported already.

    tfmot and the converter would import it, and scikit-learn with it, more than a second, to see that a model of
    legacy Keras is none of its own.
    """
    if hidden := "keras" not in sys.modules:
        sys.modules["keras"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["keras"]


@cache
def import_tfmot() -> Any:
    """tensorflow-model-optimization."""
    _import()
    with hide_keras_3():
        import tensorflow_model_optimization
    return tensorflow_model_optimization


def reset_graph(seed: int) -> None:
    """Forgets all graphs and layer numbers and seeds everything random, so that what follows stands alone."""
    import_keras().backend.clear_session()
    import_keras().utils.set_random_seed(seed)
