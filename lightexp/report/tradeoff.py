"""The primary metric against size for the stages of one run: `table.md` and `tradeoff.svg` in the run's folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from lightexp.core.board_fit import build_fit_table
from lightexp.core.formatting import escape_markdown, format_binary_bytes, replace_unprintable
from lightexp.core.primary_metric import read_primary
from lightexp.core.record import Record, StageRecord
from lightexp.core.table import render_markdown
from lightexp.report.plot_style import BLACK, BLUE, VERMILION, format_percent_axis, save_figure, set_log_scale

TABLE = "table.md"
FIGURE = "tradeoff.svg"
# Kinds differ in shape as well as in colour.
_CONTROL = {"color": BLACK, "marker": "s", "label": "control"}
_STAGE = {"color": BLUE, "marker": "o", "label": "stage"}
_SHIPPED = {"color": VERMILION, "marker": "D", "label": "ships"}
_ARROW = {"arrowstyle": "->", "color": "#777777", "shrinkA": 6, "shrinkB": 6}


def write(record: Record, folder: Path) -> None:
    """Write `table.md` and `tradeoff.svg` of a run; the same record gives the same bytes.

    Args:
        record: Record of the run.
        folder: Existing folder for the files.
    """
    (folder / TABLE).write_text(render_table(record), encoding="utf-8")
    draw(record, folder / FIGURE)


def render_table(record: Record) -> str:
    """Return a Markdown table with a row for each stage, followed by its boards and notes."""
    table = record.build_table()
    lines = [render_markdown(table)]
    if boards := build_fit_table(record):
        lines += ["", render_markdown(boards)]
    if table.notes:
        lines += ["", *(f"{escape_markdown(note)}  " for note in table.notes)]
    return "\n".join(lines) + "\n"


class _StagePoint(NamedTuple):
    name: str
    size: float
    quality: float
    style: dict[str, str]


def _list_points(record: Record) -> tuple[str, list[_StagePoint]]:
    """Return the split whose metric is drawn and the stages that were measured.

    The split is `test` where every stage was measured on it, otherwise `val`.
    """
    stages, name = record.table_stages, read_primary(record.dataset).name
    split = "test" if all(_find_coordinates(stage, f"{name}/test") for stage in stages) else "val"
    points = []
    for stage in stages:
        coordinates = _find_coordinates(stage, f"{name}/{split}")
        if coordinates is None:
            continue
        if stage.name == record.control:
            style = _CONTROL
        elif stage is record.stages[-1]:
            style = _SHIPPED
        else:
            style = _STAGE
        points.append(_StagePoint(replace_unprintable(stage.name), *coordinates, style))
    return split, points


def _find_coordinates(stage: StageRecord, name: str) -> tuple[float, float] | None:
    """Return a stage's size and metric, or None where one of them cannot be drawn."""
    size, quality = stage.metric("size/file_bytes"), stage.metric(name)
    if size is None or quality is None or not (0 < size < math.inf and math.isfinite(quality)):
        return None
    return size, quality


def draw(record: Record, path: Path) -> None:
    """Draw the primary metric over file size (log2) as SVG: a point for each stage, arrows in the pipeline's order.

    Args:
        record: Record of the run.
        path: Path of the SVG file.
    """
    split, points = _list_points(record)
    primary = read_primary(record.dataset)
    with save_figure(path, figsize=(7, 4.5)) as figure:
        axes = figure.add_axes((0.13, 0.12, 0.84, 0.78))
        axes.set_title(record.name)
        axes.set_xlabel("file size (log scale)")
        unit = f", {primary.unit}" if primary.unit else ""
        axes.set_ylabel(f"{primary.name} ({'test' if split == 'test' else 'validation'}{unit})")
        if points:
            _scale_size_axis(axes, [point.size for point in points])
            _draw_points(axes, points, primary.is_share)
        else:
            axes.text(0.5, 0.5, "nothing was measured", ha="center", transform=axes.transAxes)


def _draw_points(axes: Any, points: Sequence[_StagePoint], is_share: bool) -> None:
    in_legend: set[str] = set()
    for index, point in enumerate(points):
        style = {key: value for key, value in point.style.items() if key != "label" or value not in in_legend}
        in_legend.add(point.style["label"])
        xy = point.size, point.quality
        axes.plot(*xy, linestyle="none", markersize=8, zorder=3, **style)
        offset = (0, 9 if index % 2 == 0 else -17)  # neighbours may have the same size: one above, one below
        axes.annotate(point.name, xy, offset, textcoords="offset points", ha="center", parse_math=False)
    for before, after in pairwise(points):
        start, end = (before.size, before.quality), (after.size, after.quality)
        if start != end:
            axes.annotate("", end, start, arrowprops=_ARROW)
    axes.margins(y=0.25)
    if is_share:
        format_percent_axis(axes)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.legend()


def _scale_size_axis(axes: Any, sizes: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = math.floor(math.log2(min(sizes)) - 0.25), math.ceil(math.log2(max(sizes)) + 0.25)
    set_log_scale(axes, "x", format_binary_bytes)
    axes.set_xlim(2.0**low, 2.0**high)
    powers = range(low, high + 1, 1 + (high - low) // 8)
    axes.xaxis.set_major_locator(FixedLocator([2.0**power for power in powers]))
    axes.xaxis.set_minor_locator(NullLocator())
