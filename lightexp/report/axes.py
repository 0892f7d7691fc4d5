"""Points, curves, labels and scales on the axes of a report's plots."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lightexp.core.formatting import shorten_name
from lightexp.report.labels import join_names
from lightexp.report.plot_style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY_BLUE, VERMILION, set_log_scale
from lightexp.report.point_labels import PointLabel, place_labels

POINT_STYLES: dict[str, dict[str, Any]] = {
    "control": {"color": BLACK, "marker": "s", "label": "control"},
    "front": {"color": VERMILION, "marker": "D", "label": "on the front"},
    "row": {"color": BLUE, "marker": "o", "label": "row"},
    "infeasible": {"color": GREY, "marker": "x", "label": "infeasible"},
    "external": {"color": GREY, "marker": "^", "label": "published"},
}
_CURVE_STYLES = ((GREEN, "v"), (PURPLE, "P"), (SKY_BLUE, "<"), (ORANGE, "X"))
_MIN_CURVE_POINTS = 3
_MAX_LABELS = 24  # with more distinct names, only important points are labelled
_POINT_NAME = re.compile(r"(.+) \S+=(\S+)")
_MAX_IMPORTANT_LABELS = 100
_PICTURE_DPI = 200
MAX_MARKS = 1_000
"""Number of points up to which each is drawn as a mark."""
NARROW = 5.0
"""Width in inches below which a figure is that of one of two columns."""
_WIDE_NAME, _NARROW_NAME = 34, 24  # characters


@dataclass(frozen=True)
class PlotCurve:
    """Rows that differ in one setting alone and are drawn as one curve.

    Attributes:
        style: Colour, marker and label of its points.
        indices: Indices of its rows among all rows.
        values: The setting's value in each row.
    """

    style: dict[str, Any]
    indices: list[int]
    values: list[str]


def find_curves(names: Sequence[str]) -> list[PlotCurve]:
    """Return the curves among rows: at least three whose names are equal but for the value of the last setting.

    Args:
        names: Names of the rows, such as `prune sparsity=0.8`.

    Example:
        >>> [curve] = find_curves(["control", "prune sparsity=0.5", "prune sparsity=0.8", "prune sparsity=0.9"])
        >>> curve.indices, curve.values
        ([1, 2, 3], ['0.5', '0.8', '0.9'])
    """
    groups: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for index, name in enumerate(names):
        if match := _POINT_NAME.fullmatch(name):
            groups[match[1]].append((index, match[2]))
    curves = {name: points for name, points in groups.items() if len(points) >= _MIN_CURVE_POINTS}
    return [
        PlotCurve(
            {"color": color, "marker": marker, "label": shorten_name(name, _NARROW_NAME)},
            [index for index, _ in points],
            [value for _, value in points],
        )
        for (name, points), (color, marker) in zip(curves.items(), _CURVE_STYLES, strict=False)
    ]


def add_axes(figure: Any, x_label: str, y_label: str = "") -> Any:
    """Add axes with labels to an empty matplotlib figure, and return them."""
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return axes


def draw_point(axes: Any, x: float, y: float, spread: float | None, style: dict[str, Any]) -> None:
    """Draw one point with an error bar; the legend names only the first point of a style.

    Args:
        axes: Matplotlib axes.
        x: Position on the x axis.
        y: Position on the y axis.
        spread: Length of the error bar to either side; None draws none.
        style: Colour, marker and label.
    """
    in_legend = any(container.get_label() == style["label"] for container in axes.containers)
    if in_legend:
        style = {**style, "label": None}
    axes.errorbar(x, y, yerr=spread, linestyle="none", markersize=5, capsize=1.5, elinewidth=0.9, zorder=3, **style)


@dataclass(frozen=True)
class StyledPoint:
    """A point as it is drawn.

    Attributes:
        x: Position on the x axis.
        y: Position on the y axis.
        spread: Length of the error bar to either side; None draws none.
        style: Colour, marker and label.
        is_important: Whether it is drawn as a mark even where there are many points.
    """

    x: float
    y: float
    spread: float | None
    style: dict[str, Any]
    is_important: bool


def draw_points(axes: Any, points: Sequence[StyledPoint]) -> str:
    """Draw points with error bars; of more than `MAX_MARKS`, those that are not important become one picture.

    Args:
        axes: Matplotlib axes.
        points: The points, in the order in which they are drawn.

    Returns:
        A sentence on the points in the picture; empty if there is none.
    """
    if len(points) <= MAX_MARKS:
        for point in points:
            draw_point(axes, point.x, point.y, point.spread, point.style)
        return ""
    axes.figure.set_dpi(_PICTURE_DPI)
    by_style: defaultdict[tuple[str, bool], list[StyledPoint]] = defaultdict(list)
    for point in points:
        by_style[point.style["label"], point.is_important].append(point)
    for (label, is_important), group in by_style.items():
        x, y, spreads = zip(*((p.x, p.y, math.nan if p.spread is None else p.spread) for p in group), strict=True)
        is_named = label in axes.get_legend_handles_labels()[1]
        style = {**group[0].style, "label": None if is_named else label, "linestyle": "none"}
        if is_important:
            axes.errorbar(x, y, yerr=spreads, markersize=5, capsize=1.5, elinewidth=0.9, zorder=3, **style)
        else:
            axes.plot(x, y, markersize=2.5, alpha=0.5, zorder=2, rasterized=True, **style)
    count = sum(not point.is_important for point in points)
    return f"{count:,} points are drawn as one picture, without error bars, which table.csv has." if count else ""


@dataclass(frozen=True)
class PlotPoint:
    """A row as a point.

    Attributes:
        name: Name of the row; curves list their rows by it.
        title: Text of its label.
        x: Position on the x axis.
        y: Position on the y axis.
        is_important: Whether it is labelled where not all points are.
    """

    name: str
    title: str
    x: float
    y: float
    is_important: bool


def finish_axes(axes: Any, points: Sequence[PlotPoint]) -> str:
    """Add the legend below the axes, join the curves, and label the points where there is room.

    A point of a curve is labelled with the setting's value, once where several curves have the same value. On a narrow
    figure, or with many points, only important points have labels.

    Args:
        axes: Matplotlib axes with the points drawn.
        points: The points.

    Returns:
        A sentence on the points without a label; empty if there is none.
    """
    axes.margins(x=0.08, y=0.12)
    is_narrow = axes.figure.get_figwidth() < NARROW
    labels = [shorten_name(point.title, _NARROW_NAME if is_narrow else _WIDE_NAME) for point in points]
    labelled: set[str] = set()
    for curve in find_curves([point.name for point in points]):
        xy = sorted((points[index].x, points[index].y) for index in curve.indices)
        is_long = len(xy) > MAX_MARKS
        color = curve.style["color"]
        axes.plot(*zip(*xy, strict=True), color=color, linewidth=0.9, alpha=0.7, zorder=2, rasterized=is_long)
        for index, value in zip(curve.indices, curve.values, strict=True):
            labels[index] = "" if value in labelled else value
        labelled.update(curve.values)
    only_important = is_narrow or len(set(labels)) > _MAX_LABELS
    if only_important:
        important = [index for index, point in enumerate(points) if point.is_important]
        labelled_indices = set(important[:_MAX_IMPORTANT_LABELS])
    else:
        important, labelled_indices = [], set(range(len(points)))
    shown = [
        PointLabel(label if index in labelled_indices else "", point.x, point.y, point.is_important)
        for index, (label, point) in enumerate(zip(labels, points, strict=True))
    ]
    axes.figure.legend(loc="outside lower center", ncols=2 if is_narrow else 6)
    missing = place_labels(axes, shown)
    hidden = [i for i, label in enumerate(shown) if not label.text and labels[i] and not points[i].is_important]
    unlabelled = len(important) - _MAX_IMPORTANT_LABELS
    return join_sentences(
        f"{len(hidden)} points off the front have no label." if hidden else "",
        f"{unlabelled} others have no label either." if unlabelled > 0 else "",
        f"Without a label for want of room: {join_names(missing)}." if missing else "",
    )


def join_sentences(*sentences: str) -> str:
    """Return the sentences that are not empty as one text."""
    return " ".join(filter(None, sentences))


def scale_log2_axis(axes: Any, values: Sequence[float], formatter: Callable[[float], str]) -> None:
    """Give the x axis a logarithmic scale with ticks at powers of two, and halfway between where there are few.

    Args:
        axes: Matplotlib axes.
        values: The values on the axis, all positive.
        formatter: Formats a tick's value.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    lowest, highest = min(values), max(values)
    low, high = math.floor(math.log2(lowest) - 0.2), math.ceil(math.log2(highest) + 0.2)
    most = 5 if axes.figure.get_figwidth() < NARROW else 8
    ticks = [2.0**power for power in range(low, high + 1, 1 + (high - low) // most)]
    if highest < most * lowest:
        ticks += [1.5 * tick for tick in ticks]
    set_log_scale(axes, "x", formatter)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
