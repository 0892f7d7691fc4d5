"""Terminal view of a study: live while it works, then its front."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState
from rich.console import Group
from rich.live import Live
from rich.text import Text

from lightexp.cli.printing import make_console
from lightexp.core.formatting import escape_markup, format_clock, strip_controls
from lightexp.report.table import Table, build_rich_table
from lightexp.search.export_front import FrontPoint, TestedPoint, build_front_table
from lightexp.search.goals import SearchObjective
from lightexp.search.outcome import is_feasible, read_outcome
from lightexp.search.space import SearchSpace
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import StudyStatus

_FALLBACK_COLUMNS = 150  # of a line, where no terminal can be asked
_MAX_LIVE_POINTS = 10


class StudyView:
    """Shows a study: its progress on standard error, its results on standard output."""

    def __init__(self, objectives: tuple[SearchObjective, ...], primary: str) -> None:
        """Show nothing yet.

        Args:
            objectives: The study's objectives.
            primary: Name of the task's primary metric.
        """
        # A duplicate of the descriptor: standard error is redirected while C++ libraries write to it.
        errors = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="replace")
        self._err = make_console(errors, _choose_width(sys.stderr.isatty()))
        self._out = make_console(width=_choose_width(sys.stdout.isatty()))
        self._objectives, self._primary = objectives, primary
        self._live = Live(console=self._err, refresh_per_second=4, transient=True)
        self._reported: set[int] | None = None

    def __enter__(self) -> StudyView:
        if self._err.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def message(self, text: str) -> None:
        """Show one line."""
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
            self._live.update(self._build_live_view(status, workers, seconds, left))

    def _format_trial(self, trial: FrozenTrial, status: StudyStatus) -> str:
        outcome = read_outcome(trial)
        varied = " ".join(outcome.varied)
        if trial.state is TrialState.FAIL:
            return f"trial {trial.number} failed: {outcome.reason}  {varied}"
        if trial.state is TrialState.PRUNED:
            return f"trial {trial.number} {outcome.reason}  {varied}"
        values = "  ".join(f"{o.name} {v:.6g}" for o, v in zip(self._objectives, trial.values, strict=True))
        return f"trial {trial.number}  {values}{_describe_place(trial, status)}  {varied}"

    def _build_live_view(self, status: StudyStatus, workers: list[str], seconds: float, left: float | None) -> Group:
        counts = f"{len(status.done)} done, {_format_cut_short(status)}{len(status.failed)} failed, "
        counts += f"{len(status.running)} running   hypervolume {status.hypervolume:.4f}   "
        clock = f"{format_clock(seconds)} gone"
        if left is not None:
            clock += f", about {format_clock(left)} left"
        rows = [
            [str(trial.number), *(f"{value:.6g}" for value in trial.values), " ".join(read_outcome(trial).varied)]
            for trial in status.front[:_MAX_LIVE_POINTS]
        ]
        table = Table.from_text(["Front", *(objective.name for objective in self._objectives), ""], rows)
        activities = [Text(strip_controls(f"worker {number}: {activity}")) for number, activity in enumerate(workers)]
        return Group(Text(counts + clock), build_rich_table(table), *activities)

    def show_plan(
        self, spec: StudySpec, space: SearchSpace, seed_trials: list[tuple[str, list[str], int, int]], existing: int
    ) -> None:
        """Show what a study would search.

        Args:
            spec: The study's specification.
            space: The study's space.
            seed_trials: Of each seed trial the name, the stages, and how many of how many are in the store.
            existing: Number of trials that the study has.
        """
        rows = [["structure", "\n".join(space.labels)]] if len(space.variants) > 1 else []
        rows += [[parameter.name, str(parameter)] for parameter in space.parameters]
        self._out.print(build_rich_table(Table.from_text(["Searched", "From"], rows, spec.name), framed=True))
        rows = [[name, ", ".join(stages), f"{stored} of {total}"] for name, stages, stored, total in seed_trials]
        table = Table.from_text(["Tried first", "Stages", "In the store"], rows)
        self._out.print(build_rich_table(table, framed=True))
        goals = [f"{o.direction} {o.name}" for o in spec.objectives] + [c.text for c in spec.constraints]
        self._out.print(escape_markup(f"Goals: {'; '.join(goals)}"), soft_wrap=True)
        self._out.print(
            f"{spec.search.trials} trials on {spec.workers} workers of {spec.threads} threads; "
            f"the study has {existing} trials."
        )
        self._out.print("Nothing was run. Leave out --plan to run it.")

    def show_front(
        self, spec: StudySpec, status: StudyStatus, points: Sequence[FrontPoint], mlflow: dict[str, str]
    ) -> None:
        """Show the front, where the files are, and the command that repeats its first point.

        Args:
            spec: The study's specification.
            status: The study's status.
            points: The front, tested or not.
            mlflow: Run and experiment in MLflow; empty without tracking.
        """
        table = build_front_table(self._objectives, points, self._primary)
        self._out.print(build_rich_table(table))
        for note in table.notes:
            self._out.print(f"[yellow]{escape_markup(note)}[/yellow]", soft_wrap=True)
        infeasible = len(status.done) - len(status.feasible)
        counts = f"{len(status.done)} trials done, {_format_cut_short(status)}{len(status.failed)} failed, "
        counts += f"{infeasible} beyond a constraint"
        self._out.print(f"{counts}; hypervolume {status.hypervolume:.4f}")
        self._out.print(f"Files   {escape_markup(str(spec.folder))}", soft_wrap=True)
        if "run_id" in mlflow:
            place = f"run {mlflow['run_id']} in experiment {mlflow['experiment']}"
            self._out.print(f"MLflow  {escape_markup(place)}", soft_wrap=True)
        if points and isinstance(points[0], TestedPoint):
            self._out.print(f"Again   {escape_markup(points[0].command)}", soft_wrap=True)


def _choose_width(is_terminal: bool) -> int | None:
    """Return the width of a console's lines; None lets rich ask the terminal."""
    return None if is_terminal else _FALLBACK_COLUMNS


def _describe_place(trial: FrozenTrial, status: StudyStatus) -> str:
    stopped = read_outcome(trial).stopped
    if stopped:
        return f" cut short after epoch {stopped}"
    if any(trial.number == point.number for point in status.front):
        return " front"
    return "" if is_feasible(trial) else " infeasible"


def _format_cut_short(status: StudyStatus) -> str:
    return f"{len(status.cut_short)} cut short, " if status.cut_short else ""
