"""Plots of a study: front, hypervolume and parameter importance; the same data give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from lightexp.core.columns import find_column
from lightexp.report.plot_style import BLUE, VERMILION, save_figure, set_log_scale
from lightexp.search.goals import SearchObjective
from lightexp.search.study_status import StudyStatus

_FRONT_COLOR, _TRIAL_COLOR, _INFEASIBLE_COLOR = VERMILION, BLUE, "#bbbbbb"


def draw_front(objectives: Sequence[SearchObjective], status: StudyStatus, path: Path, title: str) -> None:
    """Draw every trial and the front: the first objective over the second, or over the trials if there is one.

    Args:
        objectives: The study's objectives.
        status: The study's status.
        path: The SVG file to write.
        title: The plot's title.
    """
    has_two_axes = len(objectives) > 1
    infeasible = [t for t in status.done if t not in status.feasible]
    dominated = [t for t in status.feasible if t not in status.front]
    front = sorted(status.front, key=lambda t: t.values[-1])
    with _save_axes(path, title) as axes:
        _draw_trials(axes, infeasible, has_two_axes, label="infeasible", color=_INFEASIBLE_COLOR, marker="x", ls="none")
        _draw_trials(axes, dominated, has_two_axes, label="trial", color=_TRIAL_COLOR, marker="o", ls="none")
        _draw_trials(axes, front, has_two_axes, label="front", color=_FRONT_COLOR, marker="D", linewidth=0.8)
        axes.set_xlabel(objectives[1].name if has_two_axes else "trial")
        axes.set_ylabel(objectives[0].name)
        if has_two_axes and status.done and all(t.values[1] > 0 for t in status.done):
            set_log_scale(axes, "x", find_column(objectives[1].name).format)
        if status.done:
            axes.legend(frameon=False)


def _draw_trials(axes: Any, trials: Sequence[FrozenTrial], has_two_axes: bool, **style: Any) -> None:
    if trials:
        x = [t.values[1] if has_two_axes else t.number for t in trials]
        axes.plot(x, [t.values[0] for t in trials], markersize=6, **style)


def draw_history(status: StudyStatus, path: Path) -> None:
    """Draw the hypervolume after each trial that was trained to its end.

    Args:
        status: The study's status.
        path: The SVG file to write.
    """
    with _save_axes(path, "hypervolume") as axes:
        axes.step(range(1, len(status.history) + 1), status.history, where="post", color=_TRIAL_COLOR)
        axes.set_xlabel("trials done")


def draw_importance(importance: Mapping[str, Mapping[str, float]], path: Path, title: str) -> None:
    """Draw each parameter's importance for each objective as bars.

    Args:
        importance: For each objective, the importance of each parameter.
        path: The SVG file to write.
        title: The plot's title.
    """
    names = sorted({name for by_parameter in importance.values() for name in by_parameter})
    height = 1 / (len(importance) + 1)
    with _save_axes(path, title) as axes:
        for index, (objective, by_parameter) in enumerate(importance.items()):
            places = [place + index * height for place in range(len(names))]
            axes.barh(places, [by_parameter.get(name, 0.0) for name in names], height, label=objective)
        axes.set_yticks(range(len(names)), [name.removeprefix("pipeline.stages.") for name in names])
        if importance:
            axes.legend(frameon=False)


@contextmanager
def _save_axes(path: Path, title: str) -> Iterator[Any]:
    """Yield the axes of a new figure, and save the figure as SVG afterwards."""
    with save_figure(path, figsize=(7, 4.5), layout="constrained") as figure:
        axes = figure.add_subplot()
        axes.set_title(title)
        axes.grid(color="#dddddd", linewidth=0.6)
        yield axes
