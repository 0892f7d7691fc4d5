"""Plots of a report as SVG and PDF: trade-off, ratio, waterfall, curves, layers, sensitivity and hypervolume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightexp.core.formatting import format_binary_bytes
from lightexp.core.hypervolume import find_front
from lightexp.report.axes import (
    POINT_STYLES,
    PlotPoint,
    StyledPoint,
    add_axes,
    draw_points,
    find_curves,
    finish_axes,
    join_sentences,
    scale_log2_axis,
)
from lightexp.report.column_choice import RATIO_OF
from lightexp.report.data import Report, ReportRow
from lightexp.report.labels import join_names
from lightexp.report.plot_style import (
    BLACK,
    BLUE,
    GREY,
    REPORT_STYLE,
    VERMILION,
    format_percent_axis,
    render_pdf,
    render_svg,
    use_style,
)
from lightexp.report.stage_plots import draw_curves, draw_layers, draw_sensitivity, draw_waterfall, format_change_label

PAGE_SIZE, COLUMN_SIZE = (6.75, 3.6), (3.3, 2.7)
"""Inches of a plot across a page of a paper, and in one of two columns."""


@dataclass(frozen=True)
class Plot:
    """A plot at the widths of a paper.

    Attributes:
        files: Contents by the end of the file's name: `.svg` and `.pdf` as wide as a page, `_column.pdf` as wide as one
            of two columns, where the plot fits that.
        note: What the plot leaves out and why; empty if nothing.
    """

    files: Mapping[str, bytes]
    note: str


def draw_plots(report: Report) -> dict[str, Plot]:
    """Draw the plots that the report asks for and has data for, and add those that it brings along.

    The same report gives the same bytes.

    Args:
        report: The report; `report.spec.figures` names the plots, none meaning all.

    Returns:
        The plots by name.
    """
    from matplotlib.figure import Figure

    plots = {}
    with use_style(REPORT_STYLE):
        for name in report.spec.figures or tuple(_DRAWERS):
            page = Figure(figsize=PAGE_SIZE, layout="constrained")
            note = _DRAWERS[name](report, page)
            if note is None:
                continue
            column = Figure(figsize=COLUMN_SIZE, layout="constrained")
            column_note = _DRAWERS[name](report, column)
            if column_note and column_note != note:
                note = join_sentences(note, f"In {name}_column.pdf: {column_note}")
            files = {".svg": render_svg(page), ".pdf": render_pdf(page)}
            if column_note is not None:
                files["_column.pdf"] = render_pdf(column)
            plots[name] = Plot(files, note)
    return plots | {name: Plot({".svg": svg}, "") for name, svg in report.figures.items()}


def _choose_curve_styles(rows: Sequence[ReportRow]) -> dict[int, dict[str, Any]]:
    """Return the styles of the points on curves, by the index of their row."""
    curves = find_curves([row.name for row in rows])
    return {index: curve.style for curve in curves for index in curve.indices}


def draw_front(report: Report, figure: Any) -> str | None:
    """Draw the primary metric against size: means with their standard deviations, and the front of the means.

    Args:
        report: The report.
        figure: Empty matplotlib figure.

    Returns:
        What the plot leaves out; None if there are no data for it.
    """
    points = []
    for row in report.rows:
        size, quality = row.metric(report.size).mean, row.metric(report.quality).mean
        if size and quality is not None:
            points.append((row, size, quality))
    if len(points) < 2:
        return None
    rows = [row for row, *_ in points]
    x, y = np.array([size for _, size, _ in points], float), np.array([quality for *_, quality in points], float)
    is_own = np.array([row.kind in ("control", "row") for row in rows])
    is_on_front = np.zeros(len(rows), bool)
    is_on_front[is_own] = find_front(np.column_stack([x[is_own], report.primary.to_error(y[is_own])]))
    y_label = f"{report.heading(report.quality)}, mean ± std"
    axes = add_axes(figure, f"{report.heading(report.size)} (log scale)", y_label)
    order = np.flatnonzero(is_on_front)[np.argsort(x[is_on_front])]
    axes.plot(x[order], y[order], drawstyle="steps-post", color=VERMILION, linewidth=0.8, alpha=0.6, zorder=1)
    styles = _choose_curve_styles(rows)
    is_important = is_on_front | np.array([row.kind in ("control", "external") for row in rows])
    drawn = []
    for index, row in enumerate(rows):
        kind = "front" if row.kind == "row" and is_on_front[index] else row.kind
        summary = row.metric(report.quality).summary
        style = styles.get(index, POINT_STYLES[kind])
        spread = summary.std if summary else None
        drawn.append(StyledPoint(x[index], y[index], spread, style, bool(is_important[index])))
    picture = draw_points(axes, drawn)
    scale_log2_axis(axes, x.tolist(), format_binary_bytes if report.size.endswith("_bytes") else "{:,.0f}".format)
    if report.primary.is_share:
        format_percent_axis(axes)
    shown = [PlotPoint(row.name, row.title, *rest) for row, *rest in zip(rows, x, y, is_important, strict=True)]
    return join_sentences(
        _list_left_out(report, rows, f"no {report.size} or {report.quality}"), picture, finish_axes(axes, shown)
    )


def draw_ratio(report: Report, figure: Any) -> str | None:
    """Draw the change of the primary metric against the compression ratio: paired differences with their intervals.

    Args:
        report: The report.
        figure: Empty matplotlib figure.

    Returns:
        What the plot leaves out; None if there are no data for it.
    """
    name = RATIO_OF.get(report.size, "")
    points = []
    for row in report.rows:
        ratio, difference = row.metric(name).mean, row.metric(report.quality).difference
        if row.kind == "row" and ratio and difference:
            points.append((row, ratio, difference))
    if len(points) < 2:
        return None
    x_label = f"{report.heading(name)}: times smaller (log scale)"
    axes = add_axes(figure, x_label, format_change_label(report, ":\n"))
    axes.axhline(0, color=BLACK, linewidth=0.8)
    if report.spec.margin:
        worst = -report.spec.margin if report.primary.direction == "max" else report.spec.margin
        axes.axhline(worst, color=GREY, linewidth=0.8, linestyle="--")
    styles, factor = _choose_curve_styles([row for row, *_ in points]), report.primary.factor
    drawn = []
    for index, (row, ratio, difference) in enumerate(points):
        half_width = None
        if difference.low is not None and difference.high is not None:
            half_width = (difference.high - difference.low) / 2 * factor
        style = styles.get(index, POINT_STYLES["front" if row.front == 1 else "row"])
        drawn.append(StyledPoint(ratio, difference.mean * factor, half_width, style, row.front == 1))
    picture = draw_points(axes, drawn)
    scale_log2_axis(axes, [ratio for _, ratio, _ in points], "{:g}x".format)
    shown = [
        PlotPoint(row.name, row.title, ratio, difference.mean * factor, row.front == 1)
        for row, ratio, difference in points
    ]
    left_out = _list_left_out(report, [row for row, *_ in points], f"no {name} or no difference to the control")
    return join_sentences(left_out, picture, finish_axes(axes, shown))


def draw_hypervolume(report: Report, figure: Any) -> str | None:
    """Draw the hypervolume of a study's front after each trial.

    Args:
        report: The report.
        figure: Empty matplotlib figure.

    Returns:
        What the plot leaves out; None if there are no data for it.
    """
    if len(report.history) < 2:
        return None
    axes = add_axes(figure, "trials", "hypervolume of the front")
    axes.plot(range(1, len(report.history) + 1), report.history, color=BLUE, drawstyle="steps-post")
    return ""


def _list_left_out(report: Report, rows: Sequence[ReportRow], reason: str) -> str:
    """Return a sentence on the rows that a plot has no point for; empty if it has all but the control."""
    drawn = {row.name for row in rows}
    missing = [row.title for row in report.rows if row.name not in drawn and row.kind not in ("control", "refused")]
    return f"Not shown, {reason}: {join_names(missing)}." if missing else ""


_DRAWERS: dict[str, Callable[[Report, Any], str | None]] = {
    "front": draw_front,
    "ratio": draw_ratio,
    "waterfall": draw_waterfall,
    "curves": draw_curves,
    "layers": draw_layers,
    "sensitivity": draw_sensitivity,
    "hypervolume": draw_hypervolume,
}
