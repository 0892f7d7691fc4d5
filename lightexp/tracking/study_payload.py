"""A search's study and its trials, as plain values to be mirrored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FRONT_FOLDER = "front"
"""Folder of a study's artifacts with a folder for each trial of the front: its file that ships and its record."""


@dataclass(frozen=True)
class TrialPayload:
    """A trial that has ended.

    Attributes:
        number: Its number in the study.
        done: Whether it has metrics; otherwise it failed.
        params: What was searched, by name.
        metrics: Objectives, constraints, feasibility and other metrics, by name.
        tags: Further facts: seed trial, host, reason of a failure.
        started: Seconds since the epoch.
        ended: Seconds since the epoch.
    """

    number: int
    done: bool
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    started: float
    ended: float


@dataclass(frozen=True)
class StudyPayload:
    """The present state of a study.

    Attributes:
        id: Distinguishes it from another study of the same name.
        name: For people.
        status: MLflow's: `RUNNING`, `FINISHED`, `FAILED` or `KILLED`.
        params: Space, objectives and constraints, by name.
        metrics: Name, value, and number of trials that had ended.
        trials: Those to show; trials that are shown already only get what is new.
        files: Path to the folder of the run's artifacts that it goes into; an empty name is the top.
        main_metrics: Names of the trials' metrics that MLflow gets by default; see `Mlflow.metrics`.
        table: The study's table in Markdown, for its description; empty while there is none.
        call: The command that has ended, by the tag of its runs; those that are still shown as running are of workers
            that have died, and are shown as killed. Empty while it has not.
    """

    id: str
    name: str
    status: str
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int]] = field(default_factory=list)
    trials: list[TrialPayload] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    main_metrics: list[str] = field(default_factory=list)
    table: str = ""
    call: str = ""


def parse_study(values: dict[str, Any]) -> StudyPayload:
    """Return a study from the JSON types that `dataclasses.asdict` makes of it."""
    return StudyPayload(**{**values, "trials": [TrialPayload(**trial) for trial in values["trials"]]})
