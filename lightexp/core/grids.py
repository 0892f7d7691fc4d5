"""Grids: kernels whose weights are integer multiples of a step, one for the kernel or one for each output channel.

Kernels have the layout of Keras, with the outputs last, as in `lightexp.core.patterns`.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

MAX_LEVEL = 1023
"""Largest multiple that is looked for."""
_TOLERANCE = 2e-3  # of a step; float32 rounding, also after batch normalisation is folded in, moves a multiple by less


def find_step(values: NDArray[np.floating], largest: int = MAX_LEVEL) -> float | None:
    """Return the largest step of which all values are integer multiples, or None if there is no such step.

    Args:
        values: Values of any shape; 0 is a multiple of any step, and the step of zeros alone is 1.
        largest: Largest multiple, positive or negative, that a value may be. Defaults to `MAX_LEVEL`.

    Example:
        >>> find_step(np.array([0.5, -0.75, 0.0]))
        0.25
    """
    magnitudes = np.unique(np.abs(values[values != 0])).astype(np.float64)
    if not len(magnitudes):
        return 1.0
    if not np.isfinite(magnitudes).all():
        return None
    for level in range(1, largest + 1):
        # The smallest value decides for most levels, so that the others are seldom looked at.
        for some in (magnitudes[:1], magnitudes):
            multiples = some * (level / magnitudes[-1])
            if np.abs(multiples - np.maximum(np.round(multiples), 1)).max() > _TOLERANCE:
                break
        else:
            return float(magnitudes[-1] / level)
    return None


def find_channel_steps(kernel: NDArray[np.floating], largest: int = MAX_LEVEL) -> NDArray[np.float32] | None:
    """Return the step of each output channel, the same for all where one fits the kernel; None if a channel has none.

    Args:
        kernel: `(..., outputs)`.
        largest: See `find_step`.

    Returns:
        `(outputs,)`.
    """
    rows = kernel.reshape(-1, kernel.shape[-1])
    step = find_step(rows, largest)
    steps = [step] * rows.shape[1] if step else [find_step(channel, largest) for channel in rows.T]
    return None if None in steps else np.array(steps, np.float32)


def digest_integers(kernel: NDArray[np.generic]) -> str | None:
    """Return a digest of a kernel's integers that no factor on an output channel changes; None for a kernel off a grid.

    Folded batch normalisation and the scales of a quantised tensor are such factors. Axes of length 1 and the division
    of the inputs into axes do not count.

    Args:
        kernel: `(..., outputs)`, floats or integers.
    """
    rows = kernel.reshape(-1, kernel.shape[-1]).astype(np.float64)
    integers = np.zeros(rows.shape, np.int16)
    for channel, values in enumerate(rows.T):
        step = find_step(values)
        if step is None:
            return None
        multiples = np.round(values / step)
        nonzero = multiples[multiples != 0]
        integers[:, channel] = multiples * (np.sign(nonzero[0]) if len(nonzero) else 1)
    return hashlib.sha256(f"{integers.shape}".encode() + integers.tobytes()).hexdigest()[:16]
