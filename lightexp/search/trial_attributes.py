"""What a study stores of a trial's run: its outcome, and attributes that people read in Optuna's dashboard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightexp.core.primary_metric import PRIMARY
from lightexp.core.record import Record
from lightexp.runner.chance import read_chance_note
from lightexp.runner.execute import STOPPED_FACT
from lightexp.search.outcome import OUTCOME, TrialOutcome

_NEW_FIELDS = ("primary", "chance")
"""Fields that are stored only where they are set, so that earlier versions read most studies."""


def build_outcome(record: Record, reason: str | None, varied: list[str], folder: Path, primary: str) -> TrialOutcome:
    """Return the outcome of a trial's run.

    Args:
        record: Record of the run.
        reason: Why the trial failed; None if it has not.
        varied: The overrides that the study has set.
        folder: The record's folder.
        primary: Name of the task's primary metric.
    """
    control = next((s for s in record.stages if s.name == record.control), None)
    return TrialOutcome(
        metrics={name: value for name, value in record.metrics.items() if math.isfinite(value)},
        control=control.values if control else {},
        reason=reason,
        varied=varied,
        folder=str(folder),
        classes=record.dataset["classes"],
        primary=record.dataset.get(PRIMARY),
        stopped=next((s.facts[STOPPED_FACT] for s in record.stages if STOPPED_FACT in s.facts), None),
        chance=read_chance_note(record.stages[-1], primary) if record.stages else None,
    )


def list_attributes(outcome: TrialOutcome, violations: Mapping[str, float]) -> dict[str, Any]:
    """Return the user attributes of a trial that has ended: its outcome, and why it failed or what stops it.

    Each attribute takes 0.2 ms to store, so that a feasible trial has the outcome alone.

    Args:
        outcome: The trial's outcome.
        violations: How far the trial lies beyond each constraint, by the constraint's text.
    """
    stored = asdict(outcome)
    for name in _NEW_FIELDS:
        if stored[name] is None:
            del stored[name]
    readable = {
        "beyond": "; ".join(text for text, violation in violations.items() if violation > 0),
        "reason": outcome.reason or "",
    }
    return {OUTCOME: stored, **{name: text for name, text in readable.items() if text}}
