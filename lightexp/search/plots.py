"""Plots of a study's front and hypervolume; the same data give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from lightexp.core.columns import find_column
from lightexp.core.formatting import format_binary_bytes
from lightexp.report.axes import scale_log2_axis
from lightexp.report.plot_style import BLACK, BLUE, VERMILION, save_figure
from lightexp.search.goals import Constraint, SearchObjective
from lightexp.search.outcome import describe_reference, read_outcome
from lightexp.search.picks import choose_picks, name_picks
from lightexp.search.study_status import StudyStatus

FRONT_STYLE: dict[str, Any] = {"color": VERMILION, "marker": "D", "label": "front"}
TRIAL_STYLE: dict[str, Any] = {"color": BLUE, "marker": "o", "label": "trial"}
INFEASIBLE_STYLE: dict[str, Any] = {"color": "#bbbbbb", "marker": "x", "label": "infeasible"}
_NEAREST = "nearest"
_GRID_COLOR = "#dddddd"


def group_trials(status: StudyStatus) -> list[tuple[list[FrozenTrial], dict[str, Any]]]:
    """Return the trials that are done in groups with a style each: infeasible ones, other ones, the front."""
    front = {trial.number for trial in status.front}
    feasible = {trial.number for trial in status.feasible}
    return [
        ([t for t in status.done if t.number not in feasible], INFEASIBLE_STYLE),
        ([t for t in status.feasible if t.number not in front], TRIAL_STYLE),
        (status.front, FRONT_STYLE),
    ]


def draw_front(
    objectives: Sequence[SearchObjective],
    constraints: Sequence[Constraint],
    status: StudyStatus,
    path: Path,
    title: str,
) -> None:
    """Draw every trial, the front and its picks: the first objective over the second, or over the trials.

    Args:
        objectives: The study's objectives.
        constraints: The study's constraints; the bounds of drawn metrics become lines.
        status: The study's status.
        path: The SVG file to write.
        title: The plot's title.
    """
    over = objectives[1] if len(objectives) > 1 else None
    if len(objectives) > 2:
        title += f" (2 of {len(objectives)} objectives)"
    with save_axes(path, title) as axes:
        for trials, style in group_trials(status):
            points = sorted((_find_x(trial, over), trial.values[0]) for trial in trials)
            if points:
                line = {"linestyle": "-" if style is FRONT_STYLE else "none", "linewidth": 0.8}
                axes.plot(*zip(*points, strict=True), markersize=6, **style, **line)
        _draw_bounds(axes, objectives, constraints, status)
        axes.set_ylabel(find_column(objectives[0].name).heading)
        axes.yaxis.set_major_formatter(lambda value, _: find_formatter(objectives[0].name)(value))
        if over is None:
            axes.set_xlabel("trial")
        else:
            _format_x_axis(axes, over, [trial.values[1] for trial in status.done])
        axes.margins(x=0.08, y=0.1)
        _label_picks(axes, objectives, over, status)
        if status.done:
            axes.legend()


def find_formatter(name: str) -> Any:
    """Return the function that formats a metric's value at a tick."""
    return format_binary_bytes if name.endswith("_bytes") else find_column(name).format


def _find_x(trial: FrozenTrial, over: SearchObjective | None) -> float:
    return trial.number if over is None else trial.values[1]


def _format_x_axis(axes: Any, objective: SearchObjective, values: Sequence[float]) -> None:
    """Label the x axis; costs get a logarithmic scale."""
    heading, formatter = find_column(objective.name).heading, find_formatter(objective.name)
    if objective.direction == "min" and values and min(values) > 0:
        scale_log2_axis(axes, values, formatter)
        heading += " (log scale)"
    else:
        axes.xaxis.set_major_formatter(lambda value, _: formatter(value))
    axes.set_xlabel(heading)


def _draw_bounds(
    axes: Any, objectives: Sequence[SearchObjective], constraints: Sequence[Constraint], status: StudyStatus
) -> None:
    """Draw a line for each constraint on a drawn metric, where the first trial's control puts it."""
    if not status.done:
        return
    control = read_outcome(status.done[0]).control
    for constraint in constraints:
        bound = constraint.find_bound(control)
        for objective, draw_line in zip(objectives, (axes.axhline, axes.axvline), strict=False):
            if objective.name == constraint.name and bound is not None:
                linestyle = "--" if draw_line == axes.axhline else ":"
                draw_line(bound, color=BLACK, linewidth=1.0, linestyle=linestyle, label=constraint.text)


def _label_picks(
    axes: Any, objectives: Sequence[SearchObjective], over: SearchObjective | None, status: StudyStatus
) -> None:
    """Name the picks at their points; without a front, name the trial that comes nearest to the constraints."""
    picks = choose_picks(status, objectives)
    if not picks and status.nearest is not None:
        picks = {_NEAREST: status.nearest}
    for trial in {trial.number: trial for trial in picks.values()}.values():
        xy = (_find_x(trial, over), trial.values[0])
        axes.annotate(name_picks(picks, trial.number), xy, (7, 5), textcoords="offset points", fontweight="bold")


def draw_history(objectives: Sequence[SearchObjective], status: StudyStatus, path: Path) -> None:
    """Draw the hypervolume after each trial that was trained to its end, and name its reference point.

    Args:
        objectives: The study's objectives.
        status: The study's status.
        path: The SVG file to write.
    """
    title = "hypervolume of the front"
    if status.candidates:
        title += f"\nreference point: {describe_reference(status.candidates, objectives)}"
    with save_axes(path, title) as axes:
        style = {"where": "post", "color": BLUE, "marker": ".", "label": "hypervolume"}
        axes.step(range(1, len(status.history) + 1), status.history, **style)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("trials done")


@contextmanager
def save_axes(path: Path, title: str) -> Iterator[Any]:
    """Yield the axes of a new figure, and save the figure as SVG afterwards."""
    with save_figure(path, figsize=(7, 4.5), layout="constrained") as figure:
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=11)
        axes.grid(color=_GRID_COLOR, linewidth=0.6)
        yield axes
