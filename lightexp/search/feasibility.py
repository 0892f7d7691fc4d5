"""Feasibility: which constraints stop a study's trials, by how much, and which bounds would admit the nearest one."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from optuna.trial import FrozenTrial

from lightexp.core.columns import find_column
from lightexp.core.secrets import hide_secrets
from lightexp.core.table import Table, TableColumn
from lightexp.search.goals import FITS, Constraint
from lightexp.search.outcome import is_feasible, list_violated, read_outcome, sum_violations
from lightexp.search.ranges import shorten_setting
from lightexp.search.study_status import StudyStatus

_KIB = 1024
_BOUND_DIGITS = 3
_SLACK = 1e-9


@dataclass(frozen=True)
class ConstraintTally:
    """How many trials a constraint stops, and by how much.

    Attributes:
        constraint: The constraint.
        stopped: Number of trials beyond it.
        alone: Number of trials that satisfy every other constraint.
        excesses: How far each of them is beyond it, in the metric's unit, where the metric was measured.
    """

    constraint: Constraint
    stopped: int
    alone: int
    excesses: list[float]


def tally_constraints(trials: Sequence[FrozenTrial], constraints: Sequence[Constraint]) -> list[ConstraintTally]:
    """Count the trials that each constraint stops, the most frequent first; constraints that stop none are left out.

    Args:
        trials: Trials with metrics.
        constraints: The study's constraints.
    """
    infeasible = [trial for trial in trials if not is_feasible(trial)]
    beyond = {trial.number: set(list_violated(trial)) for trial in infeasible}
    tallies = []
    for constraint in constraints:
        stopped = [trial for trial in infeasible if constraint.text in beyond[trial.number]]
        outcomes = [read_outcome(trial) for trial in stopped]
        excesses = [constraint.compute_excess(outcome.metrics, outcome.control) for outcome in outcomes]
        alone = sum(len(beyond[trial.number]) == 1 for trial in stopped)
        measured = sorted(excess for excess in excesses if excess is not None)
        tallies.append(ConstraintTally(constraint, len(stopped), alone, measured))
    return sorted((tally for tally in tallies if tally.stopped), key=lambda tally: -tally.stopped)


def format_tallies(tallies: Sequence[ConstraintTally]) -> str:
    """Return the numbers of stopped trials as text: `5 beyond size/file_bytes <= 64 KiB, 2 beyond ...`."""
    return ", ".join(f"{tally.stopped} beyond {tally.constraint.text}" for tally in tallies)


def build_tally_table(status: StudyStatus, constraints: Sequence[Constraint]) -> Table:
    """Return which constraint stopped how many trials and by how much, and the nearest trial's values.

    Args:
        status: Status of a study in which no trial is feasible.
        constraints: The study's constraints.
    """
    nearest = status.nearest
    outcome = read_outcome(nearest) if nearest else None
    rows = []
    for tally in tally_constraints(status.done, constraints):
        column = find_column(tally.constraint.name)
        value = outcome.metrics.get(column.name) if outcome else None
        least = min(tally.excesses, default=None)
        middle = median(tally.excesses) if tally.excesses else None
        counts = [f"{tally.stopped} of {len(status.done)}", str(tally.alone)]
        rows.append([tally.constraint.text, *counts, *map(column.format, (least, middle, value))])
    headings = ["Stopped", "By it alone", "Beyond by at least", "Median", f"Trial {nearest.number}" if nearest else ""]
    return Table.from_text(["Constraint", *map(TableColumn, headings)], rows, "No trial satisfies every constraint")


def list_advice(
    status: StudyStatus, constraints: Sequence[Constraint], study: str, command: Sequence[str]
) -> list[str]:
    """Return the nearest trial where none is feasible, and what to relax so that it is.

    Args:
        status: The study's status.
        constraints: The study's constraints.
        study: The study's name.
        command: The study's command.

    Returns:
        Lines for the user; none if a trial is feasible or no trial is done.
    """
    nearest = status.nearest
    if nearest is None:
        return []
    outcome = read_outcome(nearest)
    lines = [f"Nearest trial {nearest.number}: {' '.join(map(shorten_setting, outcome.varied))}"]
    relaxed = []
    for constraint in constraints:
        text = constraint.text
        if constraint.text in list_violated(nearest):
            looser = relax_constraint(constraint, nearest)
            if looser is None:
                advice = "leave it out, or search smaller models"
                if constraint.name not in outcome.metrics:
                    advice = f"{constraint.name} was not measured"
                lines.append(f"Relax   {text} has no looser bound: {advice}")
                continue
            lines.append(f"Relax   {text}  to  {looser}")
            text = looser
        relaxed.append(text)
    if len(list_violated(nearest)) > 1:
        lines += _list_single_relaxations(status.done, constraints)
    prefix = "hydra.sweeper." if command[1:2] == ["run"] else "search."
    replaced = (f"{prefix}constraints=", f"{prefix}study=")
    others = [argument for argument in command if not argument.startswith(replaced)]
    bounds = ",".join(f'"{text}"' for text in relaxed)
    again = [*others, f"{prefix}study={study}-relaxed", f"{prefix}constraints=[{bounds}]"]
    return [*lines, f"Search  {hide_secrets(shlex.join(again))}"]


def _list_single_relaxations(trials: Sequence[FrozenTrial], constraints: Sequence[Constraint]) -> list[str]:
    """Return for each constraint that alone stops a trial the bound that admits the nearest such trial."""
    lines = []
    for constraint in constraints:
        stopped = [trial for trial in trials if list_violated(trial) == [constraint.text]]
        nearest = min(stopped, key=sum_violations, default=None)
        if nearest is not None and (looser := relax_constraint(constraint, nearest)):
            lines.append(f"Or only {constraint.text}  to  {looser}  (trial {nearest.number})")
    return lines


def relax_constraint(constraint: Constraint, trial: FrozenTrial) -> str | None:
    """Return a constraint with a bound of three digits that a trial just satisfies, or None if no bound helps."""
    outcome = read_outcome(trial)
    operand = outcome.metrics.get(constraint.name)
    bound = constraint.find_bound(outcome.control)
    if operand is None or bound is None or constraint.name.startswith(FITS):
        return None
    start = f"{constraint.name} {constraint.sense}"
    if constraint.relative == "*":
        factor = outcome.control[constraint.name]
        return f"{start} control * {_round_loosely(operand / factor, constraint.sense):.10g}" if factor > 0 else None
    unit = ""
    if constraint.relative:
        slack = abs(operand) * _SLACK  # a difference of floats may be an ulp too strict
        operand += (slack if constraint.sense == "<=" else -slack) - outcome.control[constraint.name]
    if constraint.name.endswith("_bytes") and abs(operand) >= _KIB:
        operand, unit = operand / _KIB, " KiB"
    rounded = _round_loosely(operand, constraint.sense)
    if not constraint.relative:
        return f"{start} {rounded:.10g}{unit}"
    return f"{start} control {'-' if rounded < 0 else '+'} {abs(rounded):.10g}{unit}"


def _round_loosely(value: float, sense: str) -> float:
    """Round a bound to three digits, up for an upper bound and down for a lower one."""
    if value == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(value))) + 1 - _BOUND_DIGITS)
    return (math.ceil(value / step) if sense == "<=" else math.floor(value / step)) * step
