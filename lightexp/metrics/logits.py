"""Outputs of a file on a split, computed once and shared by all measurements."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightexp.core.protocols import MeasurementContext


def load_logits(context: MeasurementContext, split: str, control: bool = False, batch: int = 50) -> NDArray[np.float32]:
    """Return the outputs of the measured file or of the control on a split: logits, where the task has classes.

    Args:
        context: The measured file, with the cache of outputs.
        split: `val` or `test`.
        control: Whether to return the control's outputs. Defaults to False.
        batch: Examples per batch, if the outputs are not in the cache. Defaults to 50.

    Returns:
        Outputs `(n, data.outputs)`, not to be modified.

    Raises:
        BadInput: If LiteRT cannot run the file, or its shapes differ from the data set's.
    """
    from lightexp.backend import litert

    file, foreign = (context.control, context.foreign_control) if control else (context.tflite, context.foreign)
    if (file, split) not in context.cache:
        examples = context.data.splits[split].x
        context.cache[file, split] = litert.compute_logits(
            file, examples, context.data, context.threads, batch, foreign
        )
    return context.cache[file, split]


def get_split_suffix(split: str) -> str:
    """Return the suffix of a metric's name: empty for the validation split, which choices are based on."""
    return "" if split == "val" else f"_{split}"
