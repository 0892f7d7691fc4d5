"""What the stage and its measurement share."""

import numpy as np


def nearest(values: np.ndarray, step: float) -> np.ndarray:
    """Each value at the nearest multiple of `step`."""
    return (np.round(values / step) * step).astype(np.float32)
