"""Finished trials of a study that nobody has run: accuracy and bytes, with a control of 90% and 1,000 bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, create_trial

from lightexp.search.goals import SearchObjective, parse_constraints
from lightexp.search.outcome import OUTCOME, TrialOutcome
from lightexp.search.study_status import StudyStatus, compute_status

OBJECTIVES = (SearchObjective("accuracy/val", "max"), SearchObjective("size/file_bytes", "min"))
CONTROL = {"accuracy/val": 0.9, "size/file_bytes": 1_000.0}
KNOWN = (*CONTROL, "fits/nano33", "micro/arena_bytes")
SPARSITY = "pipeline.stages.prune.sparsity"
SCHEME = "pipeline.stages.quantize.scheme"
DISTRIBUTIONS: dict[str, BaseDistribution] = {
    SPARSITY: FloatDistribution(0.1, 0.9, log=True),
    SCHEME: CategoricalDistribution(("int8", "dynamic")),
}


def make_trials(
    points: Sequence[tuple[float, float]], constraints: Sequence[str] = (), chance: Sequence[int] = ()
) -> list[FrozenTrial]:
    """Make a trial for each accuracy and size.

    Args:
        points: Accuracy and bytes of each trial.
        constraints: Constraints on metrics of `KNOWN`, as a user writes them; the last two are not measured.
        chance: Numbers of the trials that are no better than guessing.
    """
    trials = []
    for number, (accuracy, size) in enumerate(points):
        metrics = {"accuracy/val": accuracy, "size/file_bytes": size}
        note = "the file is no better than guessing" if number in chance else None
        params = {SPARSITY: 0.1 + 0.8 * number / len(points), SCHEME: ("int8", "dynamic")[number % 2]}
        varied = [f"{name}={value}" for name, value in params.items()]
        outcome = TrialOutcome(metrics, CONTROL, varied=varied, classes=2, chance=note)
        violations = {
            c.text: c.compute_violation(metrics, CONTROL) for c in parse_constraints(list(constraints), KNOWN)
        }
        trial = create_trial(
            values=[accuracy, size],
            params=params,
            distributions=DISTRIBUTIONS,
            user_attrs={OUTCOME: asdict(outcome)},
            constraints=violations,
        )
        trial.number = number
        trial.datetime_complete = datetime(2026, 1, 1) + timedelta(seconds=number)
        trials.append(trial)
    return trials


def make_status(
    points: Sequence[tuple[float, float]], constraints: Sequence[str] = (), chance: Sequence[int] = ()
) -> StudyStatus:
    """Return the status of a study with such trials; see `make_trials`."""
    return compute_status(make_trials(points, constraints, chance), OBJECTIVES)
