"""A report's figures, as SVG and PDF: Okabe and Ito's colours, shapes beside colours, and letters that print."""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from lightexp.core.formatting import format_binary_bytes, shorten_name
from lightexp.core.hypervolume import find_front
from lightexp.core.sensitivity import SensitivityTable
from lightexp.report import heatmap
from lightexp.report.axes import LOOKS, binary, curves, finish, percent, point
from lightexp.report.runs import Run
from lightexp.report.summary import RATIO, Cell, Report, Row

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
_DASHES = ("-", "--", ":", "-.")
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "lightexp",  # else every file has other ids
    "text.usetex": False,
    "text.parse_math": False,  # a row's name may hold a dollar sign
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}
_LINES = 8


def draw_plots(report: Report) -> dict[str, dict[str, bytes]]:
    """Draws the figures that the report asks for and has data for; the same report gives the same bytes.

    Returns:
        By figure's name, its `svg` and its `pdf`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    wanted = report.show.figures or tuple(_DRAWN)
    drawn: dict[str, dict[str, bytes]] = {}
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that this machine's font lacks is the viewer's to find
        for name in wanted:
            figure = Figure(figsize=(7, 4.4), layout="constrained")
            if not _DRAWN[name](report, figure):
                continue
            svg, pdf = io.BytesIO(), io.BytesIO()
            figure.savefig(svg, format="svg", metadata={"Date": None})
            figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
            drawn[name] = {"svg": svg.getvalue(), "pdf": pdf.getvalue()}
    return drawn


def _mean(line: Row, name: str) -> float | None:
    found = line.cells.get(name, Cell()).summary
    return found.mean if found else None


def _looks(lines: list[Row]) -> dict[int, dict[str, Any]]:
    """How the points of curves look, by their place among the lines."""
    return {place: curve.look for curve in curves([line.name for line in lines]) for place in curve.places}


def _front(report: Report, figure: Any) -> bool:
    """Size against accuracy: means with their standard deviations, and the front of the means."""
    lines = [line for line in report.lines if _mean(line, report.size) and _mean(line, report.accuracy) is not None]
    if len(lines) < 2:
        return False
    x = np.array([_mean(line, report.size) for line in lines], float)
    y = np.array([_mean(line, report.accuracy) for line in lines], float)
    ours = np.array([line.kind != "external" for line in lines])
    on = np.zeros(len(lines), bool)
    on[ours] = find_front(np.column_stack([x[ours], 1 - y[ours]]))
    axes = figure.add_subplot()
    order = np.flatnonzero(on)[np.argsort(x[on])]
    axes.plot(x[order], y[order], drawstyle="steps-post", color="#D55E00", linewidth=0.8, alpha=0.6, zorder=1)
    looks = _looks(lines)
    for index, line in enumerate(lines):
        kind = line.kind if line.kind != "row" else "front" if on[index] else "row"
        cell = line.cells[report.accuracy].summary
        point(axes, x[index], y[index], cell.std if cell else None, looks.get(index, LOOKS[kind]))
    binary(axes, x, format_binary_bytes)
    axes.set_xlabel(f"{report.heading(report.size)} (log scale)")
    axes.set_ylabel(f"{report.heading(report.accuracy)}, mean ± std")
    percent(axes)
    finish(axes, [(line.name, *xy) for line, *xy in zip(lines, x, y, strict=True)], on | ~ours)
    return True


def _ratio(report: Report, figure: Any) -> bool:
    """How many times smaller against what it costs: paired differences with their intervals."""
    name = RATIO.get(report.size, "")
    lines = [
        line
        for line in report.lines
        if line.kind == "row" and _mean(line, name) and line.cells.get(report.accuracy, Cell()).difference
    ]
    if len(lines) < 2:
        return False
    axes = figure.add_subplot()
    axes.axhline(0, color="#000000", linewidth=0.8)
    if report.show.margin:
        axes.axhline(-report.show.margin, color="#7F7F7F", linewidth=0.8, linestyle="--")
    points = []
    looks = _looks(lines)
    for index, line in enumerate(lines):
        x, d = _mean(line, name), line.cells[report.accuracy].difference
        if x is None or d is None:
            continue
        half = (d.high - d.low) / 2 * 100 if d.high is not None and d.low is not None else None
        point(axes, x, d.mean * 100, half, looks.get(index, LOOKS["front" if line.front == 1 else "row"]))
        points.append((line.name, x, d.mean * 100))
    binary(axes, [x for _, x, _ in points], "{:g}x".format)
    axes.set_xlabel(f"{report.heading(name)}: times smaller than the control (log scale)")
    axes.set_ylabel(f"{report.heading(report.accuracy)}: change (pp), 95% interval")
    finish(axes, points, np.array([line.front == 1 for line in lines]))
    return True


def _waterfall(report: Report, figure: Any) -> bool:
    """What each stage did to bytes and to accuracy, of the rows with most stages."""
    from matplotlib.ticker import MultipleLocator

    by_row: defaultdict[str, list[Run]] = defaultdict(list)
    for run in report.runs:
        if len(run.steps) > 1:
            by_row[run.row].append(run)
    rows = sorted(by_row, key=lambda name: -len(by_row[name][0].steps))[:4]
    found = {row: _steps(by_row[row], report) for row in rows}
    found = {row: steps for row, steps in found.items() if len(steps) > 1}
    if not found:
        return False
    axes = figure.subplots(2, len(found), sharey="row", squeeze=False)
    wide = 0.3 + 0.52 * max(map(len, found.values()))
    figure.set_size_inches(max(5.0, wide * len(found) + 1.2), 4.4)
    for column, (row, steps) in enumerate(found.items()):
        names, sizes, accuracies = zip(*steps, strict=True)
        places = range(len(names))
        above, below = axes[0][column], axes[1][column]
        above.bar(places, sizes, color=[LOOKS["control"]["color"], *[PALETTE[0]] * (len(names) - 1)], width=0.7)
        for place, size in zip(places, sizes, strict=True):
            above.annotate(
                format_binary_bytes(size), (place, size), (0, 2), textcoords="offset points", ha="center", fontsize=7.5
            )
        above.set_title(shorten_name(row), fontsize=9)
        above.set_xticks([])
        above.margins(y=0.15)
        above.yaxis.set_major_locator(MultipleLocator(2.0 ** math.floor(math.log2(max(sizes) / 3))))
        below.use_sticky_edges = False  # so that there is room for the figures below the bars
        changes = [0.0, *(100 * (b - a) for a, b in itertools.pairwise(accuracies))]
        levels = np.cumsum(changes)
        colours = [PALETTE[1] if change < 0 else PALETTE[2] for change in changes]
        below.bar(places, changes, bottom=levels - changes, color=colours, width=0.7)
        below.axhline(0, color="#000000", linewidth=0.8)
        for place, change, level in list(zip(places, changes, levels, strict=True))[1:]:
            lower = min(level, level - change)
            below.annotate(
                f"{change:+.2f}", (place, lower), (0, -9), textcoords="offset points", ha="center", fontsize=7.5
            )
        below.set_xticks(list(places), names, rotation=30, ha="right")
        below.margins(y=0.25)
    axes[0][0].set_ylabel("bytes")
    axes[0][0].yaxis.set_major_formatter(lambda value, _: format_binary_bytes(value))
    axes[1][0].set_ylabel(f"{report.heading(report.accuracy)}\nchange (pp)")
    return True


def _steps(runs: Sequence[Run], report: Report) -> list[tuple[str, float, float]]:
    """Each stage's mean bytes and accuracy over the seeds, from the control on."""
    found = []
    for place, step in enumerate(runs[0].steps):
        figures = [run.steps[place].metrics for run in runs if len(run.steps) > place]
        sizes = [f.get("size/encoded_bytes", f["size/file_bytes"]) for f in figures if "size/file_bytes" in f]
        accuracies = [f[report.accuracy] for f in figures if report.accuracy in f]
        if sizes and accuracies:
            found.append((step.name, fmean(sizes), fmean(accuracies)))
    return found


def _curves(report: Report, figure: Any) -> bool:
    """Validation accuracy and training loss over all epochs of a row's stages, means over the seeds."""
    by_row: defaultdict[str, list[Run]] = defaultdict(list)
    for run in report.runs:
        by_row[run.row].append(run)
    trained = sorted(by_row, key=lambda row: -sum(bool(step.history) for step in by_row[row][0].steps))
    curves: dict[str, dict[str, list[float]]] = {}
    for row in trained:
        of = {name: _curve(by_row[row], name) for name in ("val_accuracy", "loss")}
        if of["val_accuracy"] and of not in curves.values():  # rows that share their training draw one line
            curves[row] = of
    if not curves:
        return False
    left, right = figure.subplots(1, 2)
    for number, (row, of) in enumerate(list(curves.items())[:_LINES]):
        look = {"color": PALETTE[number % len(PALETTE)], "linestyle": _DASHES[number % len(_DASHES)], "linewidth": 1.3}
        for axes, name in ((left, "val_accuracy"), (right, "loss")):
            axes.plot(range(1, len(of[name]) + 1), of[name], label=shorten_name(row), **look)
    left.set_ylabel("validation accuracy")
    right.set_ylabel("training loss")
    if all(value > 0 for of in curves.values() for value in of["loss"]):
        right.set_yscale("log")
        for which in (right.yaxis.set_major_formatter, right.yaxis.set_minor_formatter):
            which(lambda value, _: f"{value:g}")
    percent(left)
    for axes in (left, right):
        axes.set_xlabel("epoch, stage after stage")
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return True


def _curve(runs: Sequence[Run], name: str) -> list[float]:
    whole = [[v for step in run.steps for v in step.history.get(name) or [] if v is not None] for run in runs]
    length = min(map(len, whole))
    return [fmean(values) for values in zip(*(one[:length] for one in whole), strict=True)]


def _layers(report: Report, figure: Any) -> bool:
    """Non-zeros and zeros of each layer, of the row on the front that has most of them told."""
    told = [
        (run, step) for run in report.runs for step in run.steps if step.facts.get("sizes") and step.facts.get("zeros")
    ]
    if not told:
        return False
    run, step = max(told, key=lambda one: (sum(one[1].facts["zeros"].values()), one[0].row))
    names, sizes = list(step.facts["sizes"]), np.array(list(step.facts["sizes"].values()), float)
    zeros = np.array([step.facts["zeros"].get(name, 0) for name in names], float)
    axes = figure.add_subplot()
    places = np.arange(len(names))
    figure.set_size_inches(7, min(9, 1.5 + 0.4 * len(names)))
    axes.barh(places, sizes - zeros, color=PALETTE[0], label="weights that are left")
    axes.barh(places, zeros, left=sizes - zeros, color="#cccccc", label="zeros")
    for place, size, zero in zip(places, sizes, zeros, strict=True):
        axes.annotate(f" {zero / max(size, 1):.0%}", (size, place), va="center", fontsize=8)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(f"weights of each layer after {step.name}: {shorten_name(run.row)}, seed {run.seed}")
    axes.legend()
    return True


def _sensitivity(report: Report, figure: Any) -> bool:
    """Validation accuracy with each layer alone compressed: the first table that a run has."""
    for run in report.runs:
        for step in run.steps:
            if table := SensitivityTable.of(step.facts):
                heatmap.draw(figure, table, f"{shorten_name(run.row)}, seed {run.seed}")
                return True
    return False


def _hypervolume(report: Report, figure: Any) -> bool:
    """Hypervolume of the front after each trial of a study."""
    if len(report.history) < 2:
        return False
    axes = figure.add_subplot()
    axes.plot(range(1, len(report.history) + 1), report.history, color=PALETTE[0], drawstyle="steps-post")
    axes.set_xlabel("trials")
    axes.set_ylabel("hypervolume of the front")
    return True


_DRAWN: dict[str, Callable[[Report, Any], bool]] = {
    "front": _front,
    "ratio": _ratio,
    "waterfall": _waterfall,
    "curves": _curves,
    "layers": _layers,
    "sensitivity": _sensitivity,
    "hypervolume": _hypervolume,
}
