"""Points, curves, labels and scales on the axes of a report's plots."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lightexp.core.formatting import shorten_name
from lightexp.report.plot_style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY_BLUE, VERMILION, set_log_scale

POINT_STYLES: dict[str, dict[str, Any]] = {
    "control": {"color": BLACK, "marker": "s", "label": "control"},
    "front": {"color": VERMILION, "marker": "D", "label": "on the front"},
    "row": {"color": BLUE, "marker": "o", "label": "row"},
    "external": {"color": GREY, "marker": "^", "label": "published"},
}
_CURVE_STYLES = ((GREEN, "v"), (PURPLE, "P"), (SKY_BLUE, "<"), (ORANGE, "X"))
_MIN_CURVE_POINTS = 3
_MAX_LABELS = 24  # with more distinct names, only important points are labelled
_POINT_NAME = re.compile(r"(.+) \S+=(\S+)")
_CHARACTER_WIDTH, _LINE_HEIGHT = 4.6, 9  # of a label, in points
_LABEL_OFFSETS = (
    (7, 4, "left"),
    (7, -11, "left"),
    (-7, 4, "right"),
    (-7, -11, "right"),
    (7, 14, "left"),
    (-7, 14, "right"),
    (7, -21, "left"),
)

Box = tuple[float, float, float, float]
"""Left, bottom, right and top, in pixels."""


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
            {"color": color, "marker": marker, "label": shorten_name(name)},
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
    axes.errorbar(x, y, yerr=spread, linestyle="none", markersize=6, capsize=2, elinewidth=0.9, zorder=3, **style)


def finish_axes(axes: Any, points: Sequence[tuple[str, float, float]], important: Iterable[bool]) -> None:
    """Join the curves, label the points where there is room, and add the legend.

    A point of a curve is labelled with the setting's value, once where several curves have the same value.

    Args:
        axes: Matplotlib axes with the points drawn.
        points: Name and position of each point.
        important: Whether each point is labelled where there are too many to label all.
    """
    axes.margins(x=0.08, y=0.12)
    labels = [shorten_name(name) for name, *_ in points]
    labelled: set[str] = set()
    for curve in find_curves([name for name, *_ in points]):
        xy = sorted(points[index][1:] for index in curve.indices)
        axes.plot(*zip(*xy, strict=True), color=curve.style["color"], linewidth=0.9, alpha=0.7, zorder=2)
        for index, value in zip(curve.indices, curve.values, strict=True):
            labels[index] = "" if value in labelled else value
        labelled.update(curve.values)
    too_many = len(set(labels)) > _MAX_LABELS
    if too_many:
        labels = [label if is_important else "" for label, is_important in zip(labels, important, strict=True)]
    axes.figure.draw_without_rendering()  # sets the limits and the place of the axes, and so where points are
    _label_points(axes, labels, [(x, y) for _, x, y in points])
    axes.legend(loc="best", fontsize=8)


def _label_points(axes: Any, labels: Sequence[str], positions: Sequence[tuple[float, float]]) -> None:
    """Write the labels that are not empty beside their points, leaving out those that find no free place."""
    pixels = axes.transData.transform(list(positions))
    taken: list[Box] = [(x, y, x, y) for x, y in pixels]
    scale = axes.figure.dpi / 72
    for label, position, (x, y) in zip(labels, positions, pixels, strict=True):
        if not label:
            continue
        width, height = _CHARACTER_WIDTH * len(label) * scale, _LINE_HEIGHT * scale
        for dx, dy, side in _LABEL_OFFSETS:
            left = x + dx if side == "left" else x + dx - width
            box = (left, y + dy, left + width, y + dy + height)
            is_inside = axes.bbox.x0 <= box[0] and box[2] <= axes.figure.bbox.x1
            if is_inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                text = axes.annotate(
                    label, position, (dx, dy), textcoords="offset points", ha=side, fontsize=7.5, parse_math=False
                )
                text.set_in_layout(False)  # it would move the axes, and with them the points
                break


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


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
    ticks = [2.0**power for power in range(low, high + 1, 1 + (high - low) // 8)]
    if highest < 8 * lowest:
        ticks += [1.5 * tick for tick in ticks]
    set_log_scale(axes, "x", formatter)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
