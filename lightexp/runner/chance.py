"""Warn of a control that is no better than chance before stages are run on it, and note it of any stage's file."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.data import Data, Split
from lightexp.core.errors import LightexpError
from lightexp.core.preprocessing import Scaling
from lightexp.core.protocols import Artifact
from lightexp.core.record import StageRecord

_DEVIATIONS = 2.0  # of a guess's accuracy, within which an accuracy is chance
_RANGES = ([0.0, 1.0], [-1.0, 1.0], [0.0, 255.0])
_MAX_EXAMPLES = 500
_TOP = 255  # largest value of a byte


def find_chance_level(value: float, targets: NDArray[Any], data: Data) -> float | None:
    """Return the task's primary metric of guessing if a model is no better, else None.

    Args:
        value: The model's metric.
        targets: Targets of the examples that it was measured on.
        data: The data set.

    Returns:
        The metric of a model that does not look at its inputs, such as the share of the most frequent class.
    """
    level, primary = data.task.compute_chance(targets, data), data.task.describe_primary(data)
    deviation = math.sqrt(level * (1 - level) / len(targets)) if primary.is_share else 0.0
    if primary.direction == "min":
        return level if value >= level else None
    return level if value <= level + _DEVIATIONS * deviation else None


def describe_chance(artifact: Artifact, data: Data, threads: int) -> str | None:
    """Return what to do about a control whose validation metric is no better than chance; None if it is better.

    The primary metric of a trained model may be in its history. A file is run on some validation examples; if it is
    no better than chance, it is also run with other ranges of inputs.

    Args:
        artifact: The control.
        data: The data set.
        threads: Number of threads that may compute.
    """
    task = data.task
    if history := artifact.facts.get("history", {}).get(f"val_{task.primary}"):
        level = find_chance_level(history[-1], data.compute_targets(data.val), data)
        return None if level is None else _format_chance(data, history[-1], level, "Train longer or at another rate")
    rows = np.unique(np.linspace(0, len(data.val) - 1, min(len(data.val), _MAX_EXAMPLES)).astype(int))
    sample = replace(data, val=Split(data.val.x[rows], data.val.y[rows]))
    value = _measure(artifact, sample, threads)
    level = find_chance_level(value, sample.compute_targets(sample.val), sample)
    if level is None:
        return None
    if sample.val.x.dtype != np.uint8:
        return _format_chance(
            data, value, level, "Try dataset.scaling.mean and dataset.scaling.std, as in its training"
        )
    for bounds in _RANGES:
        scale, offset = Scaling(range=bounds).factors(_TOP, data.shape)
        try:
            scaled = replace(sample, scale=scale, offset=offset)
            other = _measure(artifact, scaled, threads)
        except LightexpError:  # an embedding has no rows for such inputs
            continue
        if find_chance_level(other, scaled.compute_targets(scaled.val), scaled) is None:
            setting = f"dataset.scaling.range=[{bounds[0]:g},{bounds[1]:g}]"
            return _format_chance(data, value, level, f"With {setting} it is {_format(data, other)}: set that")
    advice = "No usual dataset.scaling.range helps: try the mean and std of its training, and model.labels"
    return _format_chance(data, value, level, advice)


def note_chance(record: StageRecord, data: Data, subject: str) -> None:
    """Add a note to a stage's record if its file's measured validation metric is no better than chance.

    Args:
        record: The record, with its metrics.
        data: The data set.
        subject: What the note calls the file.
    """
    name = f"{data.task.primary}/val"
    value = record.metric(name)
    level = None if value is None else find_chance_level(value, data.compute_targets(data.val), data)
    if level is not None:
        record.notes[name] = f"{subject} is no better than {data.task.guess}, {_format(data, level)}"


def read_chance_note(record: StageRecord, primary: str) -> str | None:
    """Return the note that `note_chance` has left on a stage's record, or None if the file is better than chance.

    Args:
        record: The record, with its metrics.
        primary: Name of the task's primary metric.
    """
    name = f"{primary}/val"
    return None if record.metric(name) is None else record.notes.get(name)


def _measure(artifact: Artifact, data: Data, threads: int) -> float:
    from lightexp.backend import litert

    logits = litert.compute_logits(artifact.tflite, data.val.x, data, threads, foreign=artifact.foreign)
    return data.task.compute_primary(logits, data.compute_targets(data.val), data)


def _format_chance(data: Data, value: float, level: float, advice: str) -> str:
    return (
        f"its validation {data.task.primary}, {_format(data, value)}, is no better than {data.task.guess}, "
        f"{_format(data, level)}. {advice}; check that labels belong to the examples."
    )


def _format(data: Data, value: float) -> str:
    return f"{value:.1%}" if data.task.describe_primary(data).is_share else f"{value:.4g}"
