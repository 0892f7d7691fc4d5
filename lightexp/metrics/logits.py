"""Outputs of a file on a split, computed once and shared by all measurements."""

from __future__ import annotations

from collections.abc import Iterator

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
        chunks = litert.iterate_logits(file, examples, context.data, context.threads, batch, foreign)
        shape = len(examples), context.data.outputs
        context.cache[file, split] = litert.collect_logits(_report(chunks, split, context), shape)
    return context.cache[file, split]


def _report(
    chunks: Iterator[tuple[slice, NDArray[np.float32]]], split: str, context: MeasurementContext
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield all chunks of a split, and report the share of the visible splits that is done."""
    total = sum(len(context.data.splits[name]) for name in context.splits)
    done = len(context.data.val) if split == "test" else 0
    for chunk, logits in chunks:
        yield chunk, logits
        context.report((done + chunk.start + len(logits)) / total)


def get_split_suffix(split: str) -> str:
    """Return the suffix of a metric's name: empty for the validation split, which choices are based on."""
    return "" if split == "val" else f"_{split}"
