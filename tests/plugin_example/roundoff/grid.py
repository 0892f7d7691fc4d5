"""Rounding to a grid, shared by the stage and the measurement."""

import numpy as np


def round_to_grid(values: np.ndarray, step: float) -> np.ndarray:
    """Return each value rounded to the nearest multiple of `step`."""
    return (np.round(values / step) * step).astype(np.float32)
