"""Start TensorFlow once a process: legacy Keras, threads, determinism, memory growth, no messages.

These are settings of the process, so TensorFlow is started only in processes that are lightexp's own (the command
line's and its workers), never in a process that imports lightexp. Modules of the backend take TensorFlow, Keras and
tfmot from here.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

from lightexp.backend.stderr import silence_stderr
from lightexp.core.errors import RunFailed

_threads: int | None = None


def start_tensorflow(threads: int) -> None:
    """Import TensorFlow and configure this process for reproducible runs; later calls change nothing.

    Sets, for the process: what `import_tensorflow` sets, the number of threads, memory growth on each GPU, and
    deterministic operators.

    Args:
        threads: Threads within one operator, and operators that run at the same time.

    Raises:
        RunFailed: If this process already computes with another number of threads.
    """
    global _threads
    if _threads is None:
        tf = import_tensorflow()
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        except RuntimeError:
            raise RunFailed(
                "TensorFlow has computed in this process already, and takes its threads only once. "
                "Call lightexp before you use TensorFlow, or in another process."
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
            "takes its threads once. Run it as a separate command."
        )


def get_threads() -> int | None:
    """Return the number of threads that TensorFlow was set up with in this process; None before that."""
    return _threads


@cache
def import_tensorflow() -> Any:
    """Import TensorFlow with legacy Keras, which tfmot needs, and return its module.

    Sets, for the process: `TF_USE_LEGACY_KERAS=1` (read by TensorFlow on import), `TF_CPP_MIN_LOG_LEVEL=3` unless it
    is set, TensorFlow's logger to errors only, and all objects that exist after the import as permanent for the
    garbage collector.
    """
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    collects = gc.isenabled()
    gc.disable()  # collections during the import free nothing and take a quarter of its time
    try:
        # Legacy Keras needs them only to train on data frames and to rotate images: a sixth of its import.
        with silence_stderr(), hide_modules("pandas", "scipy"):
            import tensorflow as tf
            import tf_keras  # noqa: F401
    finally:
        if collects:
            gc.enable()
    gc.freeze()  # collections that visit TensorFlow's own objects take most of a second at exit
    tf.get_logger().setLevel("ERROR")
    return tf


def import_keras() -> Any:
    """Return the module of legacy Keras, the version that tfmot works with."""
    import_tensorflow()
    import tf_keras

    return tf_keras


@cache
def import_tfmot() -> Any:
    """Return the module tensorflow_model_optimization."""
    import_tensorflow()
    with hide_keras_3():
        import tensorflow_model_optimization
    return tensorflow_model_optimization


@contextmanager
def hide_modules(*names: str) -> Iterator[None]:
    """Make imports of modules fail while the context lasts, unless they have been imported already.

    It is for libraries that import others which they use only if these can be imported.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def hide_keras_3() -> AbstractContextManager[None]:
    """Hide Keras 3.

    tfmot and the converter import it, and with it scikit-learn, only to find that a model of legacy Keras is not a
    model of Keras 3: more than a second at each start. Both handle the import error.
    """
    return hide_modules("keras")


def reset_graph(seed: int) -> None:
    """Delete all Keras graphs, restart the numbering of layer names and seed all random generators."""
    import_keras().backend.clear_session()
    import_keras().utils.set_random_seed(seed)
