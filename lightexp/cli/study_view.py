"""What the user sees of a study: live while it works, then its front."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from lightexp.core.formatting import format_clock
from lightexp.report.table import Table, build_rich_table
from lightexp.search.export_front import FrontPoint, build_front_table
from lightexp.search.goals import SearchObjective
from lightexp.search.outcome import OUTCOME, is_feasible, read_stopped_epoch
from lightexp.search.space import SearchSpace
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import StudyStatus

_WIDE = 150  # columns of a line where there is no terminal to ask
_SHOWN = 10  # points of the front in the live view


class StudyView:
    """Shows a study; see `lightexp.search.pool.View`. Progress on standard error, results on standard output."""

    def __init__(self, objectives: tuple[SearchObjective, ...]) -> None:
        # A descriptor of its own: standard error is turned away while C++ libraries chat.
        wide = None if sys.stderr.isatty() else _WIDE
        self._err = Console(file=os.fdopen(os.dup(2), "w", buffering=1), width=wide, highlight=False)
        self._out = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
        self._objectives = objectives
        self._live = Live(console=self._err, refresh_per_second=4, transient=True)
        self._told: set[int] | None = None

    def __enter__(self) -> StudyView:
        if self._err.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, words: str) -> None:
        """Shows one line."""
        self._err.print(escape(words), soft_wrap=True)

    def show(self, now: StudyStatus, workers: list[str], seconds: float, left: float | None) -> None:
        """Shows how the study stands: live, or where there is no terminal a line for each trial that has ended."""
        ended = now.ended
        if self._told is None:  # those from before are no news
            self._told = {t.number for t in ended if t.datetime_complete is None}
            self._told |= {t.number for t in ended}
        for trial in sorted(ended, key=lambda t: t.number):
            if trial.number not in self._told:
                self._told.add(trial.number)
                if not self._live.is_started or trial.state is TrialState.FAIL:
                    self.say(self._line(trial, now))
        if self._live.is_started:
            self._live.update(self._picture(now, workers, seconds, left))

    def _line(self, trial: FrozenTrial, now: StudyStatus) -> str:
        outcome = trial.user_attrs[OUTCOME]
        if trial.state is TrialState.FAIL:
            return f"trial {trial.number} failed: {outcome['reason']}  {' '.join(outcome['varied'])}"
        if trial.state is TrialState.PRUNED:
            return f"trial {trial.number} {outcome['reason']}  {' '.join(outcome['varied'])}"
        figures = "  ".join(f"{o.name} {v:.6g}" for o, v in zip(self._objectives, trial.values, strict=True))
        mark = "" if is_feasible(trial) else " infeasible"
        mark = " front" if any(trial.number == one.number for one in now.front) else mark
        mark = f" cut short after epoch {stopped}" if (stopped := read_stopped_epoch(trial)) else mark
        return f"trial {trial.number}  {figures}{mark}  {' '.join(outcome['varied'])}"

    def _picture(self, now: StudyStatus, workers: list[str], seconds: float, left: float | None) -> Group:
        head = f"{len(now.done)} done, {_short(now)}{len(now.failed)} failed, {len(now.running)} running"
        head += f"   hypervolume {now.hypervolume:.4f}   {format_clock(seconds)} gone"
        head += f", about {format_clock(left)} left" if left is not None else ""
        rows = [
            [str(trial.number), *(f"{v:.6g}" for v in trial.values), " ".join(trial.user_attrs[OUTCOME]["varied"])]
            for trial in now.front[:_SHOWN]
        ]
        table = Table.from_text(["Front", *(objective.name for objective in self._objectives), ""], rows)
        return Group(
            Text(head), build_rich_table(table), *(Text(f"worker {n}: {words}") for n, words in enumerate(workers))
        )

    def plan(
        self, spec: StudySpec, space: SearchSpace, corners: list[tuple[str, list[str], int, int]], there: int
    ) -> None:
        """What a study would search."""
        rows = [["structure", "\n".join(space.labels)]] if len(space.variants) > 1 else []
        rows += [[parameter.name, str(parameter)] for parameter in space.parameters]
        self._out.print(build_rich_table(Table.from_text(["Searched", "From"], rows, spec.name), framed=True))
        rows = [[name, ", ".join(stages), f"{found} of {of}"] for name, stages, found, of in corners]
        table = Table.from_text(["Tried first", "Stages", "In the store"], rows)
        self._out.print(build_rich_table(table, framed=True))
        goals = [f"{o.direction} {o.name}" for o in spec.objectives] + [c.text for c in spec.constraints]
        self._out.print(escape(f"Goals: {'; '.join(goals)}"), soft_wrap=True)
        self._out.print(
            f"{spec.search.trials} trials on {spec.workers} workers of {spec.threads} threads; {there} are there."
        )
        self._out.print("Nothing was run. Leave out --plan to run it.")

    def front(self, spec: StudySpec, now: StudyStatus, points: Sequence[FrontPoint], mlflow: dict[str, str]) -> None:
        """The front, where things are, what to type next."""
        self._out.print(build_rich_table(build_front_table(self._objectives, points)))
        infeasible = len(now.done) - len(now.feasible)
        words = f"{len(now.done)} trials done, {_short(now)}{len(now.failed)} failed, {infeasible} beyond a constraint"
        self._out.print(f"{words}; hypervolume {now.hypervolume:.4f}")
        self._out.print(f"Files   {escape(str(spec.folder))}", soft_wrap=True)
        if "run_id" in mlflow:
            self._out.print(
                f"MLflow  run {mlflow['run_id']} in experiment {escape(mlflow['experiment'])}", soft_wrap=True
            )
        if points:
            self._out.print(f"Again   {escape(points[0].command)}", soft_wrap=True)


def _short(now: StudyStatus) -> str:
    return f"{len(now.cut_short)} cut short, " if now.cut_short else ""
