"""Plots of what happens stage by stage: waterfall, training curves, zeros of each layer, sensitivity of each layer."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from lightexp.core.formatting import format_binary_bytes, shorten_name
from lightexp.core.sensitivity import SensitivityTable
from lightexp.report import heatmap
from lightexp.report.axes import NARROW, add_axes, join_sentences
from lightexp.report.data import Report
from lightexp.report.labels import join_names
from lightexp.report.plot_style import BLACK, BLUE, GREEN, PALETTE, VERMILION, format_percent_axis, set_log_scale
from lightexp.report.runs import Run, RunStage

_DASHES = ("-", "--", ":", "-.")
_MAX_CURVES = 8
_STACKED_HEIGHT = 4.6  # inches of two panels below one another
_BAR_WIDTH, _PANEL_WIDTH, _LABEL_WIDTH = 0.48, 0.15, 0.75  # inches of the waterfall: a bar, around bars, y labels
_WATERFALL_HEIGHT = 3.8
_CHARACTERS_PER_INCH = 16


def draw_waterfall(report: Report, figure: Any) -> str | None:
    """Draw what each stage did to bytes and the primary metric, for as many rows with most stages as fit the width.

    Args:
        report: The report.
        figure: Empty matplotlib figure; its height is set.

    Returns:
        What the plot leaves out; None if there are no data for it.
    """
    runs_by_row = _group_by_row(run for run in report.runs if len(run.stages) > 1)
    stages_by_row = {row: _average_stages(runs, report.quality) for row, runs in runs_by_row.items()}
    means = {row: stages for row, stages in stages_by_row.items() if len(stages) > 1}
    if not means:
        return None
    longest = sorted(means, key=lambda row: -len(means[row]))
    panel_width = _PANEL_WIDTH + _BAR_WIDTH * len(means[longest[0]])
    count = max(1, int((figure.get_figwidth() - _LABEL_WIDTH) / panel_width))
    drawn, left_out = longest[:count], longest[count:]
    panels = figure.subplots(2, len(drawn), sharey="row", squeeze=False)
    # A change for the better goes up or down; its colour says which it is.
    sign = 1 if report.primary.direction == "max" else -1
    figure.set_size_inches(figure.get_figwidth(), _WATERFALL_HEIGHT)
    for column, row in enumerate(drawn):
        names, sizes, values = zip(*means[row], strict=True)
        panels[0][column].set_title(shorten_name(report.title(row), int(_CHARACTERS_PER_INCH * panel_width)))
        _draw_sizes(panels[0][column], sizes)
        _draw_changes(panels[1][column], names, [report.primary.factor * value for value in values], sign)
    panels[0][0].set_ylabel("bytes")
    panels[0][0].yaxis.set_major_formatter(lambda value, _: format_binary_bytes(value))
    panels[1][0].set_ylabel(format_change_label(report, "\n"))
    return f"Of the rows with most stages, {len(drawn)} fit; not shown: {_join(report, left_out)}." if left_out else ""


def _join(report: Report, rows: Sequence[str]) -> str:
    return join_names([report.title(row) for row in rows])


def format_change_label(report: Report, separator: str = ": ") -> str:
    """Return the label of an axis of differences: the metric, `change` and the unit."""
    unit = f" ({report.primary.difference_unit})" if report.primary.difference_unit else ""
    return f"{report.heading(report.quality)}{separator}change{unit}"


def _group_by_row(runs: Iterable[Run]) -> dict[str, list[Run]]:
    by_row: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_row[run.row].append(run)
    return dict(by_row)


def _average_stages(runs: Sequence[Run], quality: str) -> list[tuple[str, float, float]]:
    """Return name, mean bytes and mean of the metric `quality` over the seeds of each stage, from the control on."""
    stages = []
    for index, stage in enumerate(runs[0].stages):
        metrics = [run.stages[index].metrics for run in runs if len(run.stages) > index]
        sizes = [m.get("size/encoded_bytes", m["size/file_bytes"]) for m in metrics if "size/file_bytes" in m]
        values = [m[quality] for m in metrics if quality in m]
        if sizes and values:
            stages.append((stage.name, fmean(sizes), fmean(values)))
    return stages


def _draw_sizes(axes: Any, sizes: Sequence[float]) -> None:
    """Draw a bar of bytes for each stage."""
    from matplotlib.ticker import MultipleLocator

    places = range(len(sizes))
    axes.bar(places, sizes, color=[BLACK, *[BLUE] * (len(sizes) - 1)], width=0.7)
    for place, size in zip(places, sizes, strict=True):
        label = format_binary_bytes(size)
        axes.annotate(label, (place, size), (0, 2), textcoords="offset points", ha="center", fontsize=7)
    axes.set_xticks([])
    axes.margins(y=0.15)
    axes.yaxis.set_major_locator(MultipleLocator(2.0 ** math.floor(math.log2(max(sizes) / 3))))


def _draw_changes(axes: Any, names: Sequence[str], values: Sequence[float], sign: int) -> None:
    """Draw a floating bar for each stage's change of a value; `sign` is 1 where more is better, else -1."""
    axes.use_sticky_edges = False  # leaves room for the numbers below the bars
    places = range(len(names))
    changes = [0.0, *(after - before for before, after in itertools.pairwise(values))]
    levels = np.cumsum(changes)
    colours = [VERMILION if sign * change < 0 else GREEN for change in changes]
    axes.bar(places, changes, bottom=levels - changes, color=colours, width=0.7)
    axes.axhline(0, color=BLACK, linewidth=0.8)
    for place, change, level in list(zip(places, changes, levels, strict=True))[1:]:
        bottom = min(level, level - change)
        label = f"{change:+.2f}" if abs(change) >= 0.1 or not change else f"{change:+.2g}"
        axes.annotate(label, (place, bottom), (0, -9), textcoords="offset points", ha="center", fontsize=7)
    axes.set_xticks(list(places), names, rotation=30, ha="right")
    axes.margins(y=0.25)


def draw_curves(report: Report, figure: Any) -> str | None:
    """Draw the validation metric and the training loss over all epochs of the rows' stages, as means over the seeds.

    Args:
        report: The report.
        figure: Empty matplotlib figure.

    Returns:
        What the plot leaves out; None if there are no data for it.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    runs_by_row = _group_by_row(report.runs)
    most_trained = sorted(runs_by_row, key=lambda row: -sum(bool(s.history) for s in runs_by_row[row][0].stages))
    metric = _find_epoch_metric(report)
    curves = _select_curves({row: runs_by_row[row] for row in most_trained}, metric)
    if not curves:
        return None
    is_narrow = figure.get_figwidth() < NARROW
    left, right = figure.subplots(2, 1) if is_narrow else figure.subplots(1, 2)
    if is_narrow:
        figure.set_size_inches(figure.get_figwidth(), _STACKED_HEIGHT)
    for number, (row, means) in enumerate(list(curves.items())[:_MAX_CURVES]):
        color, linestyle = PALETTE[number % len(PALETTE)], _DASHES[number % len(_DASHES)]
        for axes, name in ((left, metric), (right, "loss")):
            epochs = range(1, len(means[name]) + 1)
            axes.plot(epochs, means[name], label=shorten_name(report.title(row)), color=color, linestyle=linestyle)
    left.set_ylabel(f"validation {metric.removeprefix('val_')}")
    right.set_ylabel("training loss")
    if all(loss > 0 for means in curves.values() for loss in means["loss"] if not math.isnan(loss)):
        set_log_scale(right, "y", "{:g}".format, base=10)
        right.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        right.yaxis.set_minor_locator(NullLocator())
    if report.primary.is_share and metric == f"val_{report.primary.name}":
        format_percent_axis(left)
    for axes in (left, right):
        axes.set_xlabel("epoch, stage after stage")
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=1 if is_narrow else 3)
    left_out = list(curves)[_MAX_CURVES:]
    return join_sentences(
        "Rows with the same training are one line." if len(curves) < len(runs_by_row) else "",
        f"Not shown, trained in fewer stages: {_join(report, left_out)}." if left_out else "",
    )


def _select_curves(runs_by_row: Mapping[str, Sequence[Run]], metric: str) -> dict[str, dict[str, list[float]]]:
    """Return mean curves by row and name; rows that share their training are one line, that of the first."""
    curves: dict[tuple[float, ...], tuple[str, dict[str, list[float]]]] = {}
    for row, runs in runs_by_row.items():
        means = {name: _average_history(runs, name) for name in (metric, "loss")}
        if any(map(math.isfinite, means[metric])):
            curves.setdefault((len(means[metric]), *means[metric], *means["loss"]), (row, means))
    return dict(curves.values())


def _find_epoch_metric(report: Report) -> str:
    """Return the validation metric that trainings have recorded after each epoch: the primary one, where they have."""
    names = {name: None for run in report.runs for stage in run.stages for name in stage.history}
    primary = f"val_{report.primary.name}"
    others = (name for name in names if name.startswith("val_") and name != "val_loss")
    return primary if primary in names else next(others, "val_loss")


def _average_history(runs: Sequence[Run], name: str) -> list[float]:
    """Return a curve over all stages as its mean over the runs, as long as the shortest one.

    It is NaN, a gap in the drawn curve, at an epoch at which a run has no finite value.
    """
    histories = [[value for stage in run.stages for value in _get_curve(stage, name)] for run in runs]
    length = min(map(len, histories))
    epochs = zip(*(history[:length] for history in histories), strict=True)
    # The one NaN object, so that curves with gaps can be compared: NaN differs from itself.
    return [fmean(values) if all(map(math.isfinite, values)) else math.nan for values in epochs]


def _get_curve(stage: RunStage, name: str) -> list[float]:
    """Return a curve of a stage with a value for each of its epochs, NaN where it has none."""
    curve = stage.history.get(name, ())
    epochs = max(map(len, stage.history.values()), default=0)
    return [*curve, *[math.nan] * (epochs - len(curve))]


def draw_layers(report: Report, figure: Any) -> str | None:
    """Draw zeros and other weights of each layer, for the stage with most zeros.

    Args:
        report: The report.
        figure: Empty matplotlib figure; its size is set.

    Returns:
        What the plot leaves out; None if there are no data for it.
    """
    counted = [
        (run, stage)
        for run in report.runs
        for stage in run.stages
        if stage.facts.get("sizes") and stage.facts.get("zeros")
    ]
    if not counted:
        return None
    run, stage = max(counted, key=lambda pair: (sum(pair[1].facts["zeros"].values()), pair[0].row))
    names, sizes = list(stage.facts["sizes"]), np.array(list(stage.facts["sizes"].values()), float)
    zeros = np.array([stage.facts["zeros"].get(name, 0) for name in names], float)
    axes = add_axes(figure, f"weights after {stage.name}: {shorten_name(report.title(run.row), 24)}, seed {run.seed}")
    places = np.arange(len(names))
    figure.set_size_inches(figure.get_figwidth(), min(8, 1.2 + 0.2 * len(names)))
    axes.barh(places, sizes - zeros, color=BLUE, label="weights that are left")
    axes.barh(places, zeros, left=sizes - zeros, color="#cccccc", label="zeros")
    for place, size, zero in zip(places, sizes, zeros, strict=True):
        axes.annotate(f" {zero / max(size, 1):.0%}", (size, place), va="center")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.legend(loc="outside lower center", ncols=2)
    return "One run: that whose stage left most zeros."


def draw_sensitivity(report: Report, figure: Any) -> str | None:
    """Draw the validation metric with each layer alone compressed, from the first run that measured it.

    It does not fit one of two columns.

    Args:
        report: The report.
        figure: Empty matplotlib figure; its size is set.

    Returns:
        What the plot leaves out; None if there are no data for it.
    """
    for run in report.runs if figure.get_figwidth() >= NARROW else ():
        for stage in run.stages:
            if table := SensitivityTable.find(stage.facts):
                heatmap.draw(figure, table, f"{shorten_name(report.title(run.row))}, seed {run.seed}")
                return "One run: the first that measured it."
    return None
