"""Functions that compute with Keras 3, for a process of their own: it does not mix with legacy Keras.

Only `sandbox.run_sandboxed` imports this module.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ["KERAS_BACKEND"] = "tensorflow"  # of this process: others may not be installed
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras as keras


def compute_keras_outputs(path: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the outputs of a file, whose names have been checked, as Keras 3 computes them.

    Args:
        path: A `.keras` or `.h5`.
        inputs: Examples, `(n, *shape)`.
    """
    model: Any = keras.saving.load_model(path, compile=False, safe_mode=True)
    return np.asarray(model(inputs, training=False), np.float32)
