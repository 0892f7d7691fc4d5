"""Terminal view of a study: live while it works, then its front."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState
from rich.console import Group
from rich.live import Live
from rich.text import Text

from lightexp.cli.printing import make_console
from lightexp.core.columns import MetricColumn, find_column
from lightexp.core.formatting import escape_markup, format_clock, format_count, strip_controls
from lightexp.report.table import Table, TableColumn, build_rich_table
from lightexp.search.export_front import FrontPoint, TestedPoint, build_front_table
from lightexp.search.feasibility import build_tally_table, format_tallies, list_advice, tally_constraints
from lightexp.search.outcome import list_violated, read_outcome
from lightexp.search.picks import choose_picks, name_picks
from lightexp.search.ranges import shorten_setting
from lightexp.search.space import SearchSpace
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import StudyStatus

_FALLBACK_COLUMNS = 150  # of a line, where no terminal can be asked
_MAX_LIVE_POINTS = 10
_REPEAT_S = 10.0  # in which a line is not shown again


class StudyView:
    """Shows a study: its progress on standard error, its results on standard output."""

    def __init__(self, spec: StudySpec) -> None:
        """Show nothing yet.

        Args:
            spec: The study's specification.
        """
        # A duplicate of the descriptor: standard error is redirected while C++ libraries write to it.
        self._stream = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="replace")
        self._err = make_console(self._stream, _choose_width(sys.stderr.isatty()))
        self._out = make_console(width=_choose_width(sys.stdout.isatty()))
        self._spec = spec
        self._live = Live(console=self._err, refresh_per_second=4, transient=True)
        self._reported: set[int] | None = None
        self._shown: dict[str, float] = {}  # when each of the last lines was shown

    def __enter__(self) -> StudyView:
        if self._err.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self._stream.close()

    def message(self, text: str) -> None:
        """Show one line, unless that was done a moment ago: all workers report the same outage."""
        now = time.monotonic()
        self._shown = {line: shown for line, shown in self._shown.items() if now - shown < _REPEAT_S}
        if text not in self._shown:
            self._shown[text] = now
            self._err.print(escape_markup(text), soft_wrap=True)

    def show_status(self, status: StudyStatus, workers: list[str], seconds: float, left: float | None) -> None:
        """Show the study's status: live, or without a terminal one line for each trial that has ended.

        Args:
            status: The study's status.
            workers: What each worker does.
            seconds: Time since the command's start.
            left: Estimate of the remaining seconds, or None where there is no estimate yet.
        """
        if self._reported is None:  # trials of earlier commands are not reported
            self._reported = {trial.number for trial in status.ended}
        for trial in sorted(status.ended, key=lambda t: t.number):
            if trial.number not in self._reported:
                self._reported.add(trial.number)
                if not self._live.is_started or trial.state is TrialState.FAIL:
                    self.message(self._format_trial(trial, status))
        if self._live.is_started:
            self._live.update(build_live_view(self._spec, status, workers, seconds, left))

    def _format_trial(self, trial: FrozenTrial, status: StudyStatus) -> str:
        outcome = read_outcome(trial)
        varied = _format_settings(trial)
        if trial.state is TrialState.FAIL:
            return f"trial {trial.number} failed: {outcome.reason}  {varied}"
        if trial.state is TrialState.PRUNED:
            return f"trial {trial.number} {outcome.reason}  {varied}"
        pairs = zip(_list_columns(self._spec), trial.values, strict=True)
        values = "  ".join(f"{column.heading} {column.format(value)}" for column, value in pairs)
        return f"trial {trial.number}  {values}{_describe_place(trial, status)}  {varied}"

    def show_plan(self, space: SearchSpace, seed_trials: list[tuple[str, list[str], int, int]], existing: int) -> None:
        """Show what a study would search.

        Args:
            space: The study's space.
            seed_trials: Of each seed trial the name, the stages, and how many of how many are in the store.
            existing: Number of trials that the study has.
        """
        spec = self._spec
        rows = [["structure", "\n".join(space.labels)]] if len(space.variants) > 1 else []
        rows += [[parameter.name, str(parameter)] for parameter in space.parameters]
        self._out.print(build_rich_table(Table.from_text(["Searched", "From"], rows, spec.name), framed=True))
        rows = [[name, ", ".join(stages), f"{stored} of {total}"] for name, stages, stored, total in seed_trials]
        table = Table.from_text(["Tried first", "Stages", "In the store"], rows)
        self._out.print(build_rich_table(table, framed=True))
        goals = [f"{o.direction} {o.name}" for o in spec.objectives] + [c.text for c in spec.constraints]
        self._out.print(escape_markup(f"Goals: {'; '.join(goals)}"), soft_wrap=True)
        self._out.print(
            f"{format_count(spec.search.trials, 'trial')} on {describe_workers(spec)}; "
            f"the study has {format_count(existing, 'trial')}."
        )
        self._out.print("Nothing was run. Leave out --plan to run it.")

    def show_front(
        self, status: StudyStatus, points: Sequence[FrontPoint], mlflow: dict[str, str], command: Sequence[str]
    ) -> None:
        """Show the front, where the files are, and the commands that repeat its picks.

        Where no trial is feasible, show instead which constraints stopped how many, and what to relax.

        Args:
            status: The study's status.
            points: The front, tested or not.
            mlflow: Run and experiment in MLflow; empty without tracking.
            command: The study's command.
        """
        spec = self._spec
        tallies = tally_constraints(status.done, spec.constraints)
        table = build_front_table(spec, status, points)
        if status.nearest is not None:
            table = build_tally_table(status, spec.constraints)
        self._out.print(build_rich_table(table))
        for note in table.notes:
            self._out.print(f"[yellow]{escape_markup(note)}[/yellow]", soft_wrap=True)
        lines = list_advice(status, spec.constraints, spec.name, command)
        counts = f"{len(status.done)} trials done, {_format_cut_short(status)}{len(status.failed)} failed"
        if status.chance:
            counts += f", {len(status.chance)} no better than guessing"
        parts = [counts, format_tallies(tallies), f"hypervolume {status.hypervolume:.4f}"]
        lines += ["; ".join(filter(None, parts)), f"Files   {spec.folder}"]
        if "run_id" in mlflow:
            lines.append(f"MLflow  run {mlflow['run_id']} in experiment {mlflow['experiment']}")
        picks = choose_picks(status, spec.objectives)
        for point in points:
            names = name_picks(picks, point.number)
            if names and isinstance(point, TestedPoint):
                lines.append(f"Again   {point.command}   # {names}")
        for line in lines:
            self._out.print(escape_markup(line), soft_wrap=True)


def build_live_view(
    spec: StudySpec, status: StudyStatus, workers: list[str], seconds: float, left: float | None
) -> Group:
    """Return what the terminal shows while a study runs: counts, constraints, the front, and what the workers do.

    Args:
        spec: The study's specification.
        status: The study's status.
        workers: What each worker does.
        seconds: Time since the command's start.
        left: Estimate of the remaining seconds, or None where there is no estimate yet.
    """
    columns = _list_columns(spec)
    counts = f"{len(status.done)} done, {_format_cut_short(status)}{len(status.failed)} failed, "
    counts += f"{len(status.running)} running   hypervolume {status.hypervolume:.4f}   "
    clock = f"{format_clock(seconds)} gone"
    if left is not None:
        clock += f", about {format_clock(left)} left"
    trials, title = status.front[:_MAX_LIVE_POINTS], "Front"
    if status.nearest is not None:
        trials, title = [status.nearest], "Nearest"
    rows = []
    for trial in trials:
        values = [column.format(value) for column, value in zip(columns, trial.values, strict=True)]
        rows.append([str(trial.number), *values, _format_settings(trial)])
    table = Table.from_text([title, *(TableColumn(column.heading) for column in columns), "Settings"], rows)
    above = [counts + clock, *_format_constraints(spec, status)]
    below = [f"worker {number}: {activity}" for number, activity in enumerate(workers)]
    texts = [[Text(strip_controls(line)) for line in lines] for lines in (above, below)]
    return Group(*texts[0], build_rich_table(table), *texts[1])


def describe_workers(spec: StudySpec) -> str:
    """Return how many workers of how many threads a study has on this host."""
    return f"{format_count(spec.workers, 'worker')} of {format_count(spec.threads, 'thread')}"


def _list_columns(spec: StudySpec) -> list[MetricColumn]:
    return [find_column(objective.name) for objective in spec.objectives]


def _format_constraints(spec: StudySpec, status: StudyStatus) -> list[str]:
    """Return a line for each constraint: how many trials are beyond it, and by how much at least."""
    tallies = {tally.constraint.text: tally for tally in tally_constraints(status.done, spec.constraints)}
    lines = []
    for constraint in spec.constraints:
        tally = tallies.get(constraint.text)
        line = f"{constraint.text}: {tally.stopped if tally else 0} of {len(status.done)} beyond"
        if tally and tally.excesses:
            line += f", by {find_column(constraint.name).format(min(tally.excesses))} or more"
        lines.append(line)
    return lines


def _choose_width(is_terminal: bool) -> int | None:
    """Return the width of a console's lines; None lets rich ask the terminal."""
    return None if is_terminal else _FALLBACK_COLUMNS


def _describe_place(trial: FrozenTrial, status: StudyStatus) -> str:
    stopped = read_outcome(trial).stopped
    if stopped:
        return f" cut short after epoch {stopped}"
    if any(trial.number == point.number for point in status.front):
        return " front"
    beyond = list_violated(trial)
    return f" beyond {', '.join(beyond)}" if beyond else ""


def _format_settings(trial: FrozenTrial) -> str:
    return " ".join(map(shorten_setting, read_outcome(trial).varied))


def _format_cut_short(status: StudyStatus) -> str:
    return f"{len(status.cut_short)} cut short, " if status.cut_short else ""
