"""Labels of points that overlap neither one another nor a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.report.plot_style import GREY

_MARKER = 4.0  # points from the middle of a marker to its edge, with some room
_NEAR = ((7, 0, "left"), (-7, 0, "right"), (5, 8, "left"), (-5, 8, "right"), (5, -8, "left"), (-5, -8, "right"))
_FAR = tuple(
    (sign * x, way * y, side)
    for y in (17, 26, 35, 44)
    for x in (6, 16, 30)
    for sign, side in ((1, "left"), (-1, "right"))
    for way in (1, -1)
)
"""Places of a label from its point, in points; a line joins far ones with their points."""

Box = tuple[float, float, float, float]
"""Left, bottom, right and top, in pixels."""


@dataclass(frozen=True)
class PointLabel:
    """A point and its label.

    Attributes:
        text: The label; empty for a point without one.
        x: Position on the x axis.
        y: Position on the y axis.
        is_important: Whether its label is placed before others.
    """

    text: str
    x: float
    y: float
    is_important: bool = False


def place_labels(axes: Any, points: Sequence[PointLabel]) -> list[str]:
    """Write labels at free places, important ones first.

    Args:
        axes: Matplotlib axes with the points drawn and their limits set.
        points: All points of the axes.

    Returns:
        The labels for which no place is free.
    """
    figure = axes.figure
    figure.draw_without_rendering()  # sets the place of the axes, and so where points are
    scale = figure.dpi / 72
    pixels = axes.transData.transform([(point.x, point.y) for point in points]) if points else []
    radius = _MARKER * scale
    taken = np.array([(x - radius, y - radius, x + radius, y + radius) for x, y in pixels]).reshape(-1, 4)
    area: Box = (axes.bbox.x0, axes.bbox.y0, figure.bbox.x1, axes.bbox.y1)
    left_out = []
    order = sorted(range(len(points)), key=lambda index: not points[index].is_important)
    for index in order:
        point = points[index]
        if not point.text:
            continue
        text = _write(axes, point, (0.0, 0.0, "left"), None)
        extent = text.get_window_extent()
        text.remove()
        for place in (*_NEAR, *_FAR):
            box = _find_box(pixels[index], place, (extent.width, extent.height), scale)
            is_inside = area[0] <= box[0] and area[1] <= box[1] and box[2] <= area[2] and box[3] <= area[3]
            if is_inside and not _overlaps_any(box, taken):
                taken = np.vstack([taken, box])
                line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
                _write(axes, point, place, line if place in _FAR else None)
                break
        else:
            left_out.append(point.text)
    return left_out


def _write(axes: Any, point: PointLabel, place: tuple[float, float, str], line: dict[str, Any] | None) -> Any:
    from matplotlib.patheffects import withStroke

    dx, dy, side = place
    text = axes.annotate(
        point.text,
        (point.x, point.y),
        (dx, dy),
        textcoords="offset points",
        ha=side,
        va="center",
        arrowprops=line,
        parse_math=False,
        path_effects=[withStroke(linewidth=2, foreground="white")],  # readable across lines
    )
    text.set_in_layout(False)  # it would move the axes, and with them the points
    return text


def _find_box(pixel: Sequence[float], place: tuple[float, float, str], size: tuple[float, float], scale: float) -> Box:
    dx, dy, side = place
    left = pixel[0] + dx * scale - (size[0] if side == "right" else 0.0)
    bottom = pixel[1] + dy * scale - size[1] / 2
    return left, bottom, left + size[0], bottom + size[1]


def _overlaps_any(box: Box, taken: NDArray[np.float64]) -> bool:
    left, bottom, right, top = taken.T
    return bool(((box[0] < right) & (left < box[2]) & (box[1] < top) & (bottom < box[3])).any())
