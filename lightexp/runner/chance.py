"""Warn of a control that is no better than chance, before stages are run on it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lightexp.core.data import Data, Split
from lightexp.core.preprocessing import Scaling
from lightexp.core.protocols import Artifact
from lightexp.core.record import StageRecord

_DEVIATIONS = 2.0  # of a guess's accuracy, within which an accuracy is chance
_RANGES = ([0.0, 1.0], [-1.0, 1.0], [0.0, 255.0])
_MAX_EXAMPLES = 500
_TOP = 255  # largest value of a byte


def find_chance_level(accuracy: float, labels: NDArray[np.int32], classes: int) -> float | None:
    """Return the accuracy of guessing if a model is no better, else None.

    Args:
        accuracy: The model's accuracy, from 0 to 1.
        labels: Labels `(n,)` of the examples that it was measured on.
        classes: Number of classes.

    Returns:
        The share of the most frequent class, which is the accuracy of a model that always answers with it.
    """
    level = max(1 / classes, float(np.bincount(labels, minlength=classes).max()) / len(labels))
    deviation = math.sqrt(level * (1 - level) / len(labels))
    return level if accuracy <= level + _DEVIATIONS * deviation else None


def describe_chance(artifact: Artifact, data: Data, threads: int) -> str | None:
    """Return what to do about a control whose validation accuracy is no better than chance; None if it is better.

    A trained model's accuracy is in its history. A file is run on some validation examples; if it is no better than
    chance, it is also run with other ranges of inputs.

    Args:
        artifact: The control.
        data: The data set.
        threads: Number of threads that may compute.
    """
    if history := artifact.facts.get("history", {}).get("val_accuracy"):
        level = find_chance_level(history[-1], data.val.y, data.classes)
        return None if level is None else _format_chance(history[-1], level, "Train longer or at another rate")
    rows = np.unique(np.linspace(0, len(data.val) - 1, min(len(data.val), _MAX_EXAMPLES)).astype(int))
    sample = replace(data, val=Split(data.val.x[rows], data.val.y[rows]))
    accuracy = _measure(artifact, sample, threads)
    level = find_chance_level(accuracy, sample.val.y, data.classes)
    if level is None:
        return None
    if sample.val.x.dtype != np.uint8:
        return _format_chance(accuracy, level, "Try dataset.scaling.mean and dataset.scaling.std, as in its training")
    for bounds in _RANGES:
        scale, offset = Scaling(range=bounds).factors(_TOP, data.shape)
        other = _measure(artifact, replace(sample, scale=scale, offset=offset), threads)
        if find_chance_level(other, sample.val.y, data.classes) is None:
            setting = f"dataset.scaling.range=[{bounds[0]:g},{bounds[1]:g}]"
            return _format_chance(accuracy, level, f"With {setting} it is {other:.1%}: set that")
    return _format_chance(
        accuracy, level, "No usual dataset.scaling.range helps: try the mean and std of its training, and model.labels"
    )


def note_chance(record: StageRecord, data: Data) -> None:
    """Add a note to a control's record if its measured validation accuracy is no better than chance."""
    accuracy = record.metric("accuracy/val")
    level = None if accuracy is None else find_chance_level(accuracy, data.val.y, data.classes)
    if level is not None:
        record.notes["accuracy/val"] = f"the control is no better than always answering with one class, {level:.1%}"


def _measure(artifact: Artifact, data: Data, threads: int) -> float:
    from lightexp.backend import litert

    logits = litert.compute_logits(artifact.tflite, data.val.x, data, threads, foreign=artifact.foreign)
    return float(np.mean(logits.argmax(axis=1) == data.val.y))


def _format_chance(accuracy: float, level: float, advice: str) -> str:
    return (
        f"its validation accuracy, {accuracy:.1%}, is no better than always answering with one class, {level:.1%}. "
        f"{advice}; check that labels belong to the examples."
    )
