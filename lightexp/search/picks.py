"""Picks: the points of a front that users take most often, by name."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from lightexp.core.columns import find_column
from lightexp.core.errors import BadInput
from lightexp.search.goals import SearchObjective
from lightexp.search.outcome import list_violated, place_on_axes, read_outcome
from lightexp.search.study_status import StudyStatus

PICKS = ("best", "knee", "smallest")
"""Names of the picks."""
_FILE_BYTES = "size/file_bytes"
_MAX_NUMBERS = 20  # of trials, in a message


def choose_picks(status: StudyStatus, objectives: Sequence[SearchObjective]) -> dict[str, FrozenTrial]:
    """Return the front's trial for each name of `PICKS`.

    `best` is the best by the first objective, `smallest` has the fewest bytes, and `knee` is where more of one
    objective begins to cost most of the others.

    Args:
        status: The study's status.
        objectives: The study's objectives.

    Returns:
        Trials by name: none if the front is empty, and no `smallest` if no size was measured.
    """
    if not status.front:
        return {}
    picks = {"best": status.front[0], "knee": find_knee(status.front, objectives)}
    name = next((o.name for o in objectives if o.name.endswith("_bytes") and o.direction == "min"), _FILE_BYTES)
    sizes = {trial.number: read_outcome(trial).metrics.get(name) for trial in status.front}
    measured = [trial for trial in status.front if sizes[trial.number] is not None]
    if measured:
        picks["smallest"] = min(measured, key=lambda trial: sizes[trial.number] or 0.0)
    return picks


def name_picks(picks: dict[str, FrozenTrial], number: int) -> str:
    """Return the names of a trial's picks, such as `best, knee`; empty if it is none."""
    return ", ".join(name for name, trial in picks.items() if trial.number == number)


def find_knee(front: Sequence[FrozenTrial], objectives: Sequence[SearchObjective]) -> FrozenTrial:
    """Return the knee of a front: the point farthest from the plane through its extremes (Das 1999).

    Distances are taken on the axes of the hypervolume, each scaled to the front's range.

    Args:
        front: At least one trial; of equally distant ones the first is returned.
        objectives: The study's objectives.
    """
    points = [point for point, _ in place_on_axes(front, objectives).values()]
    bounds = [(min(values), max(values)) for values in zip(*points, strict=True)]

    def sum_scaled(point: Sequence[float]) -> float:
        return math.fsum((x - low) / ((high - low) or 1.0) for x, (low, high) in zip(point, bounds, strict=True))

    distances = [sum_scaled(point) for point in points]
    return front[distances.index(min(distances))]


def find_point(name: str, status: StudyStatus, objectives: Sequence[SearchObjective]) -> tuple[FrozenTrial, str]:
    """Return the trial of a pick's name or a number, and what it is in words.

    Args:
        name: One of `PICKS`, or the number of a trial that is done.
        status: The study's status.
        objectives: The study's objectives.

    Raises:
        BadInput: If there is no such trial.
    """
    picks = choose_picks(status, objectives)
    if name in PICKS and name not in picks:
        advice = (
            f" Trial {status.nearest.number} comes nearest: --pick {status.nearest.number}." if status.nearest else ""
        )
        raise BadInput(f"--pick {name}: no trial of the study satisfies every constraint.{advice}")
    done = {str(trial.number): trial for trial in status.done}
    trial = picks.get(name) or done.get(name)
    if trial is None:
        numbers = ", ".join(sorted(done, key=int)[:_MAX_NUMBERS])
        raise BadInput(f"--pick {name}: write {', '.join(PICKS)} or the number of a trial that is done: {numbers}.")
    columns = [find_column(objective.name) for objective in objectives]
    values = ", ".join(f"{c.heading} {c.format(v)}" for c, v in zip(columns, trial.values, strict=True))
    facts = [name_picks(picks, trial.number), *(f"beyond {text}" for text in list_violated(trial))]
    return trial, f"trial {trial.number}: {'; '.join(filter(None, [*facts, values]))}"
