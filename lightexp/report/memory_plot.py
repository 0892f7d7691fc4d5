"""RAM of the shipped file's activations at each operator, as `ram.csv` and as the figure `ram.svg`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightexp.core.formatting import format_binary_bytes, replace_unprintable, shorten_name
from lightexp.core.memory_plan import OperatorMemory, find_peak
from lightexp.report.csv_files import render_csv
from lightexp.report.plot_style import BLUE, VERMILION, save_figure

TABLE = "ram.csv"
FIGURE = "ram.svg"
_MAX_BARS = 60  # of a longer network, the operators with most memory


def write(rows: Sequence[OperatorMemory], folder: Path, title: str) -> dict[str, str]:
    """Write the table and the figure; the same rows give the same bytes.

    Args:
        rows: The memory at each operator, in order.
        folder: Existing folder for the files.
        title: Title of the figure.

    Returns:
        The files' names by role; empty for a graph without operators.
    """
    peak = find_peak(rows)
    if peak is None:
        return {}
    heads = ["operator", "layer", "kind", "bytes", "is peak", "tensors alive"]
    lines = [
        [place, row.layer, row.kind, row.size, int(row is peak), "; ".join(f"{n}: {size}" for n, size in row.tensors)]
        for place, row in enumerate(rows)
    ]
    (folder / TABLE).write_text(render_csv(heads, lines), encoding="utf-8", newline="")
    with save_figure(folder / FIGURE, layout="constrained") as figure:
        draw(figure, rows, title)
    return {"RAM table": TABLE, "RAM figure": FIGURE}


def draw(figure: Any, rows: Sequence[OperatorMemory], title: str) -> None:
    """Draw a bar for each operator, stacked of the tensors that are alive; the peak has another colour and is named.

    Args:
        figure: Empty matplotlib figure; its size is set.
        rows: The memory at each operator, in order; at least one.
        title: Title of the figure.
    """
    shown = list(rows)
    if len(shown) > _MAX_BARS:
        limit = sorted((row.size for row in rows), reverse=True)[_MAX_BARS - 1]
        shown = [row for row in rows if row.size >= limit][:_MAX_BARS]
    from matplotlib.ticker import MultipleLocator

    peak = find_peak(rows)
    assert peak is not None
    figure.set_size_inches(7, 1.4 + 0.22 * len(shown))
    axes = figure.subplots()
    for place, row in enumerate(shown):
        start, colour = 0, VERMILION if row is peak else BLUE
        for _, size in row.tensors:
            axes.barh(place, size, left=start, color=colour, edgecolor="#ffffff", height=0.8)
            start += size
    labels = [f"{shorten_name(replace_unprintable(row.layer))} ({row.kind})" for row in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=7.5, parse_math=False)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MultipleLocator(2.0 ** math.floor(math.log2(max(peak.size, 4) / 4))))
    axes.xaxis.set_major_formatter(lambda value, _: format_binary_bytes(value))
    axes.set_xlabel("activations that are alive, without the kernels' scratch memory")
    name = replace_unprintable(peak.layer)
    heading = f"{title}\npeak: {format_binary_bytes(peak.size)} at '{name}', what to narrow next"
    axes.set_title(heading, fontsize=9, parse_math=False)
