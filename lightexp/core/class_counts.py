"""Counts of examples by class: of the class, predicted as the class, and both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.memmap import sum_chunks


@dataclass(frozen=True)
class ClassCounts:
    """Counts of examples by class, each `(classes,)`.

    Attributes:
        present: Examples of the class.
        predicted: Examples that are taken for the class.
        correct: Examples of the class that are taken for it.
    """

    present: NDArray[np.intp]
    predicted: NDArray[np.intp]
    correct: NDArray[np.intp]


def find_top(logits: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return the class of the highest logit of each example, `(n,)`."""
    top: NDArray[np.intp] = logits.argmax(axis=1)
    return top


def count_classes(outputs: NDArray[np.generic], labels: NDArray[np.int32], classes: int) -> ClassCounts:
    """Count examples by class, in little memory however many there are.

    Args:
        outputs: Logits `(n, classes)`, of which the highest predicts the class, or predicted classes `(n,)`.
        labels: Classes `(n,)`, from 0.
        classes: Number of classes.
    """

    def count(outputs: NDArray[Any], labels: NDArray[np.int32]) -> NDArray[np.intp]:
        predictions = outputs if outputs.ndim == 1 else find_top(outputs)
        correct = labels[predictions == labels]
        return np.stack([np.bincount(each, minlength=classes) for each in (labels, predictions, correct)])

    return ClassCounts(*sum_chunks(count, outputs, labels))
