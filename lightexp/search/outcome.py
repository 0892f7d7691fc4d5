"""What is kept of a trial, and where that stands among others."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial

from lightexp.search.goals import SearchObjective

OUTCOME = "outcome"
RUNG, PROMOTED_FROM = "rung", "of"
"""Of a trial that goes on with another's training: how far (`lightexp.core.training.Rung`), and the other's number."""


@dataclass(frozen=True)
class TrialOutcome:
    """What is kept of a finished trial.

    Attributes:
        figures: Of its file, by name.
        control: Of its control's.
        reason: Why it failed, or None.
        varied: What the study had set, as overrides.
        host: Where it ran.
        folder: Its record's, on that host.
        classes: The data set's.
        stopped: The epoch after which its training was cut short, or None.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    control: dict[str, float] = field(default_factory=dict)
    reason: str | None = None
    varied: list[str] = field(default_factory=list)
    host: str = field(default_factory=platform.node)
    folder: str = ""
    classes: int = 2
    stopped: int | None = None


def read_stopped_epoch(trial: FrozenTrial) -> int | None:
    """The epoch after which a finished trial's training was cut short, or None."""
    stopped: int | None = trial.user_attrs[OUTCOME].get("stopped")
    return stopped


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a finished trial keeps to every constraint."""
    return all(value <= 0 for value in trial.constraints.values())


def place_on_axes(trial: FrozenTrial, objectives: Sequence[SearchObjective]) -> tuple[list[float], list[float]]:
    """A finished trial's place on the hypervolume's axes, and the reference point."""
    outcome = trial.user_attrs[OUTCOME]
    pairs = [
        o.to_axis(value, _control(outcome["control"], o.name, value), outcome["classes"])
        for o, value in zip(objectives, trial.values, strict=True)
    ]
    return [value for value, _ in pairs], [reference for _, reference in pairs]


def _control(figures: dict[str, float], name: str, value: float) -> float:
    """What a figure is compared with: the control's; of bytes that the control does not have, its file's."""
    return figures.get(name, figures.get("size/file_bytes", value) if name.endswith("_bytes") else value)
