"""Measurement contexts of files whose logits are known, so that no file is run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lightexp.core.data import Data, Split
from lightexp.core.protocols import MeasurementContext

FILE, CONTROL = Path("file.tflite"), Path("control.tflite")  # neither exists: all logits are in the cache
LABELS = np.array([0, 1, 2, 0], np.int32)
HALF_CORRECT = [[2, 0, 0], [0, 2, 0], [0, 2, 0], [0, 0, 2]]
CORRECT = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]


def make_context(
    logits: list[list[float]], control_logits: list[list[float]], names: tuple[str, ...] = ()
) -> MeasurementContext:
    """Return the context of a file and a control with known logits on the validation split."""
    empty = Split(np.empty((0, 1)), np.empty(0, np.int32))
    data = Data("known", empty, Split(np.zeros((4, 1)), LABELS.copy()), empty, 3, names=names)
    cache = {(FILE, "val"): np.array(logits, np.float32), (CONTROL, "val"): np.array(control_logits, np.float32)}
    return MeasurementContext(FILE, CONTROL, data, 1, ("val",), cache=cache)
