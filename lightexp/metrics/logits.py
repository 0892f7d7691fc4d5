"""What a file answers on a split, computed once however many measurements ask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightexp.core.protocols import MeasurementContext


def load_logits(subject: MeasurementContext, split: str, control: bool = False, batch: int = 50) -> NDArray[np.float32]:
    """Logits of the subject's file, or of its control, on a split.

    Args:
        subject: What is measured.
        split: `val` or `test`.
        control: Whether the control's are wanted. Defaults to False, the file's.
        batch: Examples that go in at once, where nobody has asked before.

    Returns:
        Logits `(n, classes)`, not to be written to.

    Raises:
        BadInput: If LiteRT cannot run the file, or its shapes are not the data set's.
    """
    from lightexp.backend import litert

    file, foreign = (subject.control, subject.foreign_control) if control else (subject.tflite, subject.foreign)
    if (file, split) not in subject.cache:
        raw = subject.data.splits[split].x
        subject.cache[file, split] = litert.compute_logits(file, raw, subject.data, subject.threads, batch, foreign)
    return subject.cache[file, split]


def compute_log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logarithms of the probabilities, `(n, classes)`, in nats."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def get_split_suffix(split: str) -> str:
    """What stands behind a figure's name: nothing on validation, where choices are made."""
    return "" if split == "val" else f"_{split}"
