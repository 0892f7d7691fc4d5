"""The trade-off of one run, control first: `table.md` and `tradeoff.svg`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from lightexp.core.formatting import escape_markdown, format_binary_bytes, replace_unprintable
from lightexp.core.record import Record, StageRecord
from lightexp.core.table import render_markdown

TABLE = "table.md"
FIGURE = "tradeoff.svg"
PLOT_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "lightexp",  # else every file has other ids
    "svg.fonttype": "none",
    "text.usetex": False,
    "text.parse_math": False,  # a stage's name may hold a dollar sign
}
# Of Okabe and Ito's palette, told apart by shape as well.
_CONTROL = {"color": "#000000", "marker": "s", "label": "control"}
_STAGE = {"color": "#0072B2", "marker": "o", "label": "stage"}
_SHIPPED = {"color": "#D55E00", "marker": "D", "label": "ships"}
_ARROW = {"arrowstyle": "->", "color": "#777777", "shrinkA": 6, "shrinkB": 6}


def write(record: Record, folder: Path) -> None:
    """Writes `table.md` and `tradeoff.svg` of a run into `folder`; the same record gives the same bytes."""
    (folder / TABLE).write_text(render_table(record), encoding="utf-8")
    draw(record, folder / FIGURE)


def render_table(record: Record) -> str:
    """Return a Markdown table with a row for each stage, followed by what was waived."""
    lines = [render_markdown(record.build_table())]
    if record.waived:
        lines += ["", *(f"Waived {escape_markdown(k)}: {escape_markdown(text)}" for k, text in record.waived.items())]
    return "\n".join(lines) + "\n"


class _Point(NamedTuple):
    name: str
    size: float
    accuracy: float
    look: dict[str, str]


def _points(record: Record) -> tuple[str, list[_Point]]:
    """What is drawn: the accuracy's name (test's where every stage has it), and the stages that have figures."""
    stages = record.table_stages
    split = "test" if all(_drawable(stage, "accuracy/test") for stage in stages) else "val"
    points = []
    for stage in stages:
        if found := _drawable(stage, f"accuracy/{split}"):
            shipped = stage is record.stages[-1]
            look = _CONTROL if stage.name == record.control else _SHIPPED if shipped else _STAGE
            points.append(_Point(replace_unprintable(stage.name), *found, look))
    return split, points


def _drawable(stage: StageRecord, accuracy: str) -> tuple[float, float] | None:
    size, value = stage.metric("size/file_bytes"), stage.metric(accuracy)
    if size is None or value is None or not (0 < size < math.inf and math.isfinite(value)):
        return None
    return size, value


def draw(record: Record, path: Path) -> None:
    """Draws accuracy over file size (log2), a point per stage, arrows in the order of the pipeline."""
    import matplotlib
    from matplotlib.figure import Figure

    split, points = _points(record)
    with matplotlib.rc_context(PLOT_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that this machine's font lacks is the viewer's to find
        figure = Figure(figsize=(7, 4.5))
        axes = figure.add_axes((0.13, 0.12, 0.84, 0.78))
        axes.set_title(record.name)
        axes.set_xlabel("file size (log scale)")
        axes.set_ylabel(f"accuracy ({'test' if split == 'test' else 'validation'})")
        if points:
            _scale(axes, [p.size for p in points])
            _mark(axes, points)
        else:
            axes.text(0.5, 0.5, "nothing was measured", ha="center", transform=axes.transAxes)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _mark(axes: Any, points: Sequence[_Point]) -> None:
    from matplotlib.ticker import PercentFormatter

    labelled = set()
    for index, point in enumerate(points):
        look = {k: v for k, v in point.look.items() if k != "label" or v not in labelled}
        labelled.add(point.look["label"])
        axes.plot(point.size, point.accuracy, linestyle="none", markersize=8, zorder=3, **look)
        offset = (0, 9 if index % 2 == 0 else -17)  # neighbours may be of one size: one above, one below
        axes.annotate(
            point.name, (point.size, point.accuracy), offset, textcoords="offset points", ha="center", parse_math=False
        )
    for before, after in pairwise(points):
        if before[1:3] != after[1:3]:
            axes.annotate("", after[1:3], before[1:3], arrowprops=_ARROW)
    axes.margins(y=0.25)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False)


def _scale(axes: Any, sizes: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = math.floor(math.log2(min(sizes)) - 0.25), math.ceil(math.log2(max(sizes)) + 0.25)
    axes.set_xscale("log", base=2)
    axes.set_xlim(2.0**low, 2.0**high)
    powers = range(low, high + 1, 1 + (high - low) // 8)
    axes.xaxis.set_major_locator(FixedLocator([2.0**p for p in powers]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda size, _: format_binary_bytes(size))
