"""What a report's figures share: the looks of points, scales, and names beside points where there is room."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lightexp.core.formatting import shorten_name

LOOKS: dict[str, dict[str, Any]] = {
    "control": {"color": "#000000", "marker": "s", "label": "control"},
    "front": {"color": "#D55E00", "marker": "D", "label": "on the front"},
    "row": {"color": "#0072B2", "marker": "o", "label": "row"},
    "external": {"color": "#7F7F7F", "marker": "^", "label": "published"},
}
_NAMED = 24  # rows that are named in a figure; of more, those on the front are
_CURVES = (("#009E73", "v"), ("#CC79A7", "P"), ("#56B4E9", "<"), ("#E69F00", "X"))
_POINT = re.compile(r"(.+) \S+=(\S+)")


@dataclass(frozen=True)
class Curve:
    """Rows that differ in one field alone, which figures draw as one curve.

    Attributes:
        look: How its points look.
        places: Of its rows among all.
        values: What each row has in the field.
    """

    look: dict[str, Any]
    places: list[int]
    values: list[str]


def curves(names: Sequence[str]) -> list[Curve]:
    """The curves among rows: at least three that a planner has named alike but for one field's value."""
    found: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for place, name in enumerate(names):
        if parts := _POINT.fullmatch(name):
            found[parts[1]].append((place, parts[2]))
    long = {name: points for name, points in found.items() if len(points) >= 3}
    return [
        Curve(
            {"color": color, "marker": marker, "label": shorten_name(name)},
            [p for p, _ in points],
            [v for _, v in points],
        )
        for (name, points), (color, marker) in zip(long.items(), _CURVES, strict=False)
    ]


def point(axes: Any, x: float, y: float, spread: float | None, look: dict[str, Any]) -> None:
    """Draws one point, with an error bar of `spread` to either side; the first of a look is named in the legend."""
    labelled = any(one.get_label() == look["label"] for one in axes.containers)
    axes.errorbar(
        x,
        y,
        yerr=spread,
        linestyle="none",
        markersize=6,
        capsize=2,
        elinewidth=0.9,
        zorder=3,
        **{**look, "label": None if labelled else look["label"]},
    )


def finish(axes: Any, points: Sequence[tuple[str, float, float]], important: Any) -> None:
    """Joins the curves, names the points where there is room, and explains their shapes.

    Points of a curve are named by what they differ in, once where another curve has the same.
    """
    axes.margins(x=0.08, y=0.12)
    drawn = curves([name for name, *_ in points])
    words = [shorten_name(name) for name, *_ in points]
    said: set[str] = set()
    for curve in drawn:
        xy = sorted(points[place][1:] for place in curve.places)
        axes.plot(*zip(*xy, strict=True), color=curve.look["color"], linewidth=0.9, alpha=0.7, zorder=2)
        for place, value in zip(curve.places, curve.values, strict=True):
            words[place] = "" if value in said else value
        said.update(curve.values)
    many = len(set(words)) > _NAMED
    axes.figure.canvas.draw()
    taken: list[Any] = [(px, py, px, py) for px, py in axes.transData.transform([(x, y) for _, x, y in points])]
    for (_, x, y), name, told in zip(points, words, important, strict=True):
        if not name or (many and not told):
            continue
        width, height = 4.6 * len(name) * axes.figure.dpi / 72, 9 * axes.figure.dpi / 72
        px, py = axes.transData.transform((x, y))
        for dx, dy, side in (
            (7, 4, "left"),
            (7, -11, "left"),
            (-7, 4, "right"),
            (-7, -11, "right"),
            (7, 14, "left"),
            (-7, 14, "right"),
            (7, -21, "left"),
        ):
            left = px + dx if side == "left" else px + dx - width
            box = (left, py + dy, left + width, py + dy + height)
            inside = axes.bbox.x0 <= box[0] and box[2] <= axes.bbox.x1 + 20
            if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                break
        else:
            continue
        taken.append(box)
        axes.annotate(name, (x, y), (dx, dy), textcoords="offset points", ha=side, fontsize=7.5, parse_math=False)
    axes.legend(loc="best", fontsize=8)


def binary(axes: Any, values: Any, words: Callable[[float], str]) -> None:
    """Gives the x axis a logarithmic scale in powers of two, and halfway between them where there are few."""
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = math.floor(math.log2(min(values)) - 0.2), math.ceil(math.log2(max(values)) + 0.2)
    ticks = [2.0**p for p in range(low, high + 1, 1 + (high - low) // 8)]
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(
        FixedLocator([*ticks, *(1.5 * tick for tick in ticks if max(values) < 8 * min(values))])
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: words(value))


def percent(axes: Any) -> None:
    """Shows shares on the y axis as per cent."""
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
