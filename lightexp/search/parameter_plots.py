"""Plots of what the searched settings do: importance, slices and parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from lightexp.core.columns import find_column
from lightexp.core.formatting import shorten_name
from lightexp.report.plot_style import save_figure, set_log_scale
from lightexp.search.goals import SearchObjective
from lightexp.search.plots import FRONT_STYLE, find_formatter, group_trials, save_axes
from lightexp.search.ranges import format_value, shorten_setting
from lightexp.search.study_status import StudyStatus

Importance = Mapping[str, Mapping[str, float]]
_MAX_BARS, _MAX_SLICES, _MAX_AXES = 20, 6, 10  # settings that a plot shows
_LEGEND_AXES = 0.2  # room for the legend, in distances between axes
_MAX_LABEL = 18  # characters of a choice
MAX_DRAWN = 1_000  # trials of a kind, evenly over the study; more hide each other in a file of many megabytes


@dataclass(frozen=True)
class _Setting:
    """A searched setting as plots show it.

    Attributes:
        name: Its name in the trials.
        distribution: The values that were searched.
    """

    name: str
    distribution: BaseDistribution

    @property
    def label(self) -> str:
        return shorten_name(shorten_setting(self.name))

    @property
    def choices(self) -> list[Any]:
        """The values of a categorical setting; empty for a number."""
        return list(self.distribution.choices) if isinstance(self.distribution, CategoricalDistribution) else []

    @property
    def choice_labels(self) -> list[str]:
        return [shorten_name(format_value(choice), _MAX_LABEL) for choice in self.choices]

    @property
    def is_log(self) -> bool:
        return bool(getattr(self.distribution, "log", False))

    def locate(self, trial: FrozenTrial) -> float:
        """Return a trial's value, or the index of its choice; NaN where the setting does not apply to it."""
        if self.name not in trial.params:
            return math.nan
        value = trial.params[self.name]
        return float(self.choices.index(value)) if self.choices else float(value)


def draw_importance(importance: Importance, path: Path, title: str) -> None:
    """Draw each parameter's importance for each objective as bars, the most important at the top.

    Args:
        importance: For each objective, the importance of each parameter; empty for too few trials.
        path: The SVG file to write.
        title: The plot's title.
    """
    ranked = _rank(importance)
    names = ranked[:_MAX_BARS]
    height = 0.8 / max(1, len(importance))
    with save_axes(path, title + _describe_rest(len(names), len(ranked), importance)) as axes:
        for index, (objective, by_parameter) in enumerate(importance.items()):
            places = [place + index * height for place in range(len(names))]
            axes.barh(places, [by_parameter.get(name, 0.0) for name in names], height, label=objective)
        middles = [place + (len(importance) - 1) * height / 2 for place in range(len(names))]
        axes.set_yticks(middles, [shorten_name(shorten_setting(name)) for name in names])
        axes.invert_yaxis()
        axes.set_xlabel("importance (PED-ANOVA), 1 in sum")
        if names:
            axes.legend(loc="lower right")
        else:
            axes.text(0.5, 0.5, "needs ten complete trials", ha="center", transform=axes.transAxes)


def draw_slices(objectives: Sequence[SearchObjective], status: StudyStatus, importance: Importance, path: Path) -> None:
    """Draw each objective over each of the most important settings, a point for each trial.

    Args:
        objectives: The study's objectives.
        status: The study's status.
        importance: As `draw_importance` takes it.
        path: The SVG file to write.
    """
    searched = _list_settings(status, importance)
    settings = searched[:_MAX_SLICES]
    size = (max(7.0, 2.3 * len(settings)), 0.8 + 2.4 * len(objectives))
    with save_figure(path, figsize=size, layout="constrained") as figure:
        groups, omission = _select_drawn(status)
        rest = _describe_rest(len(settings), len(searched), importance)
        figure.suptitle(f"objectives over settings{rest}{omission}", fontsize=11)
        if not settings:
            return
        grid = figure.subplots(len(objectives), len(settings), sharex="col", sharey="row", squeeze=False)
        for row, objective in enumerate(objectives):
            for column, setting in enumerate(settings):
                _draw_slice(grid[row][column], setting, row, groups)
            grid[row][0].set_ylabel(find_column(objective.name).heading)
            grid[row][0].yaxis.set_major_formatter(_make_tick_formatter(objective.name))
        for axes, setting in zip(grid[-1], settings, strict=True):
            axes.set_xlabel(setting.label)
            if setting.choices:
                axes.set_xticks(range(len(setting.choices)), setting.choice_labels, rotation=20, ha="right")
            elif setting.is_log:
                set_log_scale(axes, "x", "{:.2g}".format, base=10)
                low, high = axes.get_xlim()
                axes.set_xticks([low, math.sqrt(low * high), high])
                axes.minorticks_off()
        grid[0][0].legend(fontsize=8)


def _make_tick_formatter(name: str) -> Any:
    return lambda value, _: find_formatter(name)(value)


def _select_drawn(status: StudyStatus) -> tuple[list[tuple[list[FrozenTrial], dict[str, Any]]], str]:
    """Return the trials to draw, as `group_trials` does, and what the title says of those that are left out."""
    groups = [
        (trials if style is FRONT_STYLE else trials[:: max(1, math.ceil(len(trials) / MAX_DRAWN))], style)
        for trials, style in group_trials(status)
    ]
    drawn = sum(len(trials) for trials, _ in groups)
    omission = f"\n{drawn:,} of {len(status.done):,} trials, the whole front among them"
    return groups, omission if drawn < len(status.done) else ""


def _draw_slice(
    axes: Any, setting: _Setting, row: int, groups: Sequence[tuple[list[FrozenTrial], dict[str, Any]]]
) -> None:
    axes.grid(color="#dddddd", linewidth=0.6)
    for trials, style in groups:
        if trials:
            values = [trial.values[row] for trial in trials]
            axes.plot([setting.locate(t) for t in trials], values, markersize=4, linestyle="none", **style)


def draw_parallel(
    objectives: Sequence[SearchObjective], status: StudyStatus, importance: Importance, path: Path
) -> None:
    """Draw each trial as a line over parallel axes: the most important settings, then the objectives.

    Args:
        objectives: The study's objectives.
        status: The study's status.
        importance: As `draw_importance` takes it.
        path: The SVG file to write.
    """
    searched = _list_settings(status, importance)
    settings = searched[:_MAX_AXES]
    labels = [setting.label for setting in settings] + [find_column(o.name).heading for o in objectives]
    size = (max(7.0, 1.3 * len(labels)), 4.5)
    with save_figure(path, figsize=size, layout="constrained") as figure:
        axes = figure.add_subplot()
        groups, omission = _select_drawn(status)
        rest = _describe_rest(len(settings), len(searched), importance)
        axes.set_title(f"trials over settings and objectives{rest}{omission}", fontsize=11)
        heights: list[dict[int, float]] = []  # of each axis, by the trial's number
        for place, setting in enumerate(settings):
            values = {trial.number: setting.locate(trial) for trial in status.done}
            heights.append(_scale_values(values, setting.is_log))
            _label_setting(axes, place, setting, values, heights[place])
        for index, objective in enumerate(objectives):
            values = {trial.number: trial.values[index] for trial in status.done}
            heights.append(_scale_values(values))
            ends = map(find_formatter(objective.name), _find_ends(values.values()))
            _label_ends(axes, len(settings) + index, list(ends))
        for trials, style in groups:
            look = {"color": style["color"], "marker": ".", "linewidth": 1.6 if style is FRONT_STYLE else 0.7}
            for order, trial in enumerate(trials):
                line = [by_number[trial.number] for by_number in heights]
                axes.plot(range(len(labels)), line, label="" if order else style["label"], **look)
        axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
        axes.set_yticks([])
        axes.set_ylim(-0.12, 1.12)
        axes.grid(axis="x", color="#999999", linewidth=0.8)
        if status.done:
            axes.set_xlim(right=len(labels) + _LEGEND_AXES)
            axes.legend(fontsize=8, loc="center right")


def _scale_values(values: Mapping[int, float], is_log: bool = False) -> dict[int, float]:
    """Return heights on an axis, from 0 to 1, of values by their trial's number; NaN stays NaN."""
    scaled = {number: math.log(value) if is_log else value for number, value in values.items()}
    low, high = _find_ends(scaled.values())
    return {number: (value - low) / (high - low) if high > low else 0.5 + 0 * value for number, value in scaled.items()}


def _find_ends(values: Iterable[float]) -> tuple[float, float]:
    known = [value for value in values if not math.isnan(value)]
    return (min(known), max(known)) if known else (math.nan, math.nan)


def _label_setting(
    axes: Any, place: int, setting: _Setting, values: Mapping[int, float], heights: Mapping[int, float]
) -> None:
    """Write the choices that trials have made, or both ends of a range, at an axis."""
    if not setting.choices:
        _label_ends(axes, place, [f"{end:.4g}" for end in _find_ends(values.values())])
        return
    places = {heights[number]: value for number, value in values.items() if not math.isnan(value)}
    for height, index in places.items():
        label = setting.choice_labels[int(index)]
        axes.text(place + 0.04, height, label, va="center", fontsize=7.5, zorder=4)


def _label_ends(axes: Any, place: int, labels: Sequence[str]) -> None:
    for height, label in zip((-0.09, 1.05), labels, strict=True):
        axes.text(place, height, label, ha="center", fontsize=8)


def _list_settings(status: StudyStatus, importance: Importance) -> list[_Setting]:
    """Return the settings of the trials that are done, the most important first."""
    distributions: dict[str, BaseDistribution] = {}
    for trial in status.done:
        distributions |= trial.distributions
    ranked = [name for name in _rank(importance) if name in distributions]
    return [_Setting(name, distributions[name]) for name in dict.fromkeys([*ranked, *distributions])]


def _rank(importance: Importance) -> list[str]:
    """Return the parameters' names by their importance for all objectives together, the most important first."""
    sums: dict[str, float] = {}
    for by_parameter in importance.values():
        for name, share in by_parameter.items():
            sums[name] = sums.get(name, 0.0) + share
    return sorted(sums, key=lambda name: (-sums[name], name))


def _describe_rest(shown: int, count: int, importance: Importance) -> str:
    """Return what a title says of settings that are left out; empty if all are shown."""
    if shown == count:
        return ""
    return f" (the {'most important' if importance else 'first'} {shown} of {count} settings)"
