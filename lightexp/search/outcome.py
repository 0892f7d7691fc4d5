"""Trial outcomes: what a study stores of each finished trial, and where the trial lies among the others."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial

from lightexp.core.columns import find_column
from lightexp.core.primary_metric import PRIMARY, read_primary
from lightexp.search.goals import SearchObjective

OUTCOME = "outcome"
"""Name of the trial attribute that holds the outcome, as `dataclasses.asdict` writes it."""
RUNG = "rung"
"""Name of the trial attribute that holds the rung (`lightexp.core.training.Rung`); absent on the first."""
PROMOTED_FROM = "of"
"""Name of the trial attribute that holds the number of the trial whose training this trial continues."""


@dataclass(frozen=True)
class TrialOutcome:
    """What a study stores of a finished trial.

    Attributes:
        metrics: The shipped file's metrics by name; NaN and infinity are left out.
        control: The control's metrics by name.
        reason: Why the trial failed or was pruned. Defaults to None.
        varied: The overrides that the study has set.
        host: Name of the computer that ran the trial.
        folder: The folder of the trial's record on that computer.
        classes: Number of the data set's classes; 0 where it has none.
        primary: The task's primary metric, as `asdict` writes it. Defaults to None: accuracy.
        stopped: The epoch after which the training was cut short. Defaults to None: it was trained to its end.
        chance: That the file is no better than guessing, as its record notes it. Defaults to None: it is better.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    control: dict[str, float] = field(default_factory=dict)
    reason: str | None = None
    varied: list[str] = field(default_factory=list)
    host: str = field(default_factory=platform.node)
    folder: str = ""
    classes: int = 2
    primary: dict[str, Any] | None = None
    stopped: int | None = None
    chance: str | None = None


def read_outcome(trial: FrozenTrial) -> TrialOutcome:
    """Return the outcome that a finished trial stores.

    Raises:
        KeyError: If the trial has not finished.
    """
    return TrialOutcome(**upgrade_outcome(trial.user_attrs[OUTCOME]))


def upgrade_outcome(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored outcome with the present names of its fields.

    Studies made before format 2 of the record call the field `metrics` `figures`.
    """
    return {"metrics" if name == "figures" else name: value for name, value in stored.items()}


def read_stopped_epoch(trial: FrozenTrial) -> int | None:
    """Return the epoch after which a finished trial's training was cut short, or None if it was not."""
    stopped: int | None = trial.user_attrs[OUTCOME].get("stopped")
    return stopped


def read_chance(trial: FrozenTrial) -> str | None:
    """Return the note that a finished trial's file is no better than guessing, or None if it is better."""
    note: str | None = trial.user_attrs[OUTCOME].get("chance")
    return note


def sum_violations(trial: FrozenTrial) -> float:
    """Return the sum of how far a finished trial lies beyond its constraints; 0 if it satisfies all."""
    return sum(max(0.0, violation) for violation in trial.constraints.values())


def list_violated(trial: FrozenTrial) -> list[str]:
    """Return the constraints that a finished trial does not satisfy, as the user wrote them."""
    return [text for text, violation in trial.constraints.items() if violation > 0]


def is_feasible(trial: FrozenTrial) -> bool:
    """Return whether a finished trial satisfies every constraint."""
    return all(value <= 0 for value in trial.constraints.values())


def place_on_axes(
    trials: Sequence[FrozenTrial], objectives: Sequence[SearchObjective]
) -> dict[int, tuple[list[float], list[float]]]:
    """Return the points of finished trials on the axes of the hypervolume, and the reference point of each.

    Args:
        trials: Trials with a value for each objective.
        objectives: The study's objectives.

    Returns:
        By the trial's number, two lists with a number for each objective, smaller is better; see
        `SearchObjective.to_axis`. A metric that controls do not have, such as an NPU's cycles, which float files take
        none of, is compared with the worst of the trials.
    """
    worst = _find_worst(trials, objectives)
    places = {}
    for trial in trials:
        outcome = read_outcome(trial)
        primary = read_primary({"classes": outcome.classes, PRIMARY: outcome.primary})
        pairs = [
            goal.to_axis(value, _find_control_value(outcome.control, goal.name, worst[goal.name]), primary)
            for goal, value in zip(objectives, trial.values, strict=True)
        ]
        places[trial.number] = [value for value, _ in pairs], [reference for _, reference in pairs]
    return places


def _find_worst(trials: Sequence[FrozenTrial], objectives: Sequence[SearchObjective]) -> dict[str, float]:
    """Return the worst value of each objective among finished trials; empty without trials."""
    columns = zip(objectives, zip(*(trial.values for trial in trials), strict=True), strict=bool(trials))
    return {goal.name: max(values) if goal.direction == "min" else min(values) for goal, values in columns}


def describe_reference(trials: Sequence[FrozenTrial], objectives: Sequence[SearchObjective]) -> str:
    """Return the reference point of the hypervolume as text, with the control of the first trial.

    Args:
        trials: At least one of the trials that may be on the front.
        objectives: The study's objectives.
    """
    outcome, worst = read_outcome(trials[0]), _find_worst(trials, objectives)
    primary = read_primary({"classes": outcome.classes, PRIMARY: outcome.primary})
    texts = []
    for objective in objectives:
        column = find_column(objective.name)
        if objective.is_error_of(primary) and primary.reference is not None:
            texts.append(f"{column.heading} {column.format(primary.reference)} (guessing)")
            continue
        control = _find_control_value(outcome.control, objective.name, math.nan)
        value, source = (worst[objective.name], "worst trial") if math.isnan(control) else (control, "control")
        texts.append(f"{column.heading} {column.format(value)} ({source})")
    return ", ".join(texts)


def _find_control_value(control: Mapping[str, float], name: str, worst: float) -> float:
    """Return the control's value that trials' values are compared with; `worst` where it has none.

    A control has no bytes of a coding that only compressed files get; those are compared with its plain file.
    """
    if name in control:
        return control[name]
    if name.endswith("_bytes"):
        return control.get("size/file_bytes", worst)
    return worst
