"""Write the figure and the table of all nets of `09_hardware_*.yaml` from their committed results.

    python experiments/hardware_figure.py

Each panel of `results/09_hardware/cycles.svg` is one net on one NPU: cycles against test accuracy, a point for each
row, and a line for the float32 control. `results/09_hardware/table.md` has all nets in one table.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightexp.core.columns import MISSING
from lightexp.core.formatting import escape_markdown
from lightexp.core.regular_files import replace_file
from lightexp.report.axes import draw_point
from lightexp.report.plot_style import (
    BLACK,
    PALETTE,
    REPORT_STYLE,
    render_pdf,
    render_svg,
    set_log_scale,
    use_style,
)
from lightexp.report.point_labels import PointLabel, place_labels

RESULTS = Path(__file__).resolve().parent / "results"
OUTPUT = RESULTS / "09_hardware"
NETS = {
    "lenet_300_100": "LeNet-300-100",
    "autoencoder": "autoencoder's shape",
    "lenet5": "LeNet-5",
    "small_cnn": "small_cnn",
    "resnet8": "ResNet-8",
    "ds_cnn": "DS-CNN",
}
TARGETS = {"ethos_u55_128": "Ethos-U55-128", "ethos_u85_256": "Ethos-U85-256"}
CONTROL, BASELINE = "control", "int8"
LABELS = {  # of the rows that an NPU computes
    BASELINE: "int8",
    "prune+int8": "prune",
    "2:4+int8": "2:4",
    "prune+cluster+qat": "prune+cluster+qat",
    "prune_channels+int8": "channels",
    "prune_channels+prune+int8": "channels+prune",
    "factorize+int8": "factorize",
    "rate+int8": "rate",
}
COLORS = dict(zip(LABELS, (BLACK, *(color for color in PALETTE if color != BLACK)), strict=True))
ACCURACY, LATENCY = "accuracy/test", "latency/p50_us"
COUNTS = {"size/file_bytes": "File bytes", "size/encoded_bytes": "Encoded bytes", "micro/arena_bytes": "RAM bytes"}


@dataclass(frozen=True)
class Cell:
    """A row's metric over the seeds.

    Attributes:
        mean: Mean.
        std: Sample standard deviation; None with one seed.
    """

    mean: float
    std: float | None


Table = dict[str, dict[str, Cell]]
"""Cells by row and metric, rows in their order."""

INTRODUCTION = """# 09\\_hardware

Which method buys what, and where: six nets on Fashion-MNIST, every file with integer inputs and outputs but for the
float32 controls and what is trained on from them. Means of three seeds, from `09_hardware_*/table.csv`; the nets'
own tables have the statistics and mark doubtful latencies. Cycles and flash are estimates of Arm's compiler Vela, not
measurements on a chip; the gain is the cycles of the row `int8` divided by the row's. RAM is TFLite Micro's arena. A
dash: no operator for the NPU, or refused by the interpreter or the compiler.

![Cycles against accuracy](cycles.svg)
"""


def name_metric(target: str, quantity: str = "cycles") -> str:
    """Return the name of a target's metric."""
    return f"npu/{target}/{quantity}"


def read_table(net: str) -> Table:
    """Read the statistics of a net's rows from its committed `table.csv`."""
    table: Table = {}
    with (RESULTS / f"09_hardware_{net}/table.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            cells = table.setdefault(line["row"], {})
            if line["mean"]:
                cells[line["measurement"]] = Cell(float(line["mean"]), float(line["std"]) if line["std"] else None)
    return table


def draw_figure(tables: Mapping[str, Table]) -> Any:
    """Draw a panel for each net and target, and return the matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, 11.2), layout="constrained")
    panels = figure.subplots(len(tables), len(TARGETS), squeeze=False)
    for row_of_panels, (net, table) in zip(panels, tables.items(), strict=True):
        for axes, target in zip(row_of_panels, TARGETS, strict=True):
            _draw_panel(axes, table, name_metric(target))
            axes.set_title(f"{NETS[net]}, {TARGETS[target]}", loc="left")
        row_of_panels[0].set_ylabel("accuracy test")
    note = (
        "cycles of one inference, estimated by Arm's compiler Vela (log scale); dashed: accuracy of the float32 control"
    )
    figure.supxlabel(note, fontsize=8)
    return figure


def _draw_panel(axes: Any, table: Table, metric: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

    axes.axhline(table[CONTROL][ACCURACY].mean, color=BLACK, linewidth=0.8, linestyle="--", zorder=1)
    labels = []
    for row, text in LABELS.items():
        cycles, accuracy = table[row][metric].mean, table[row][ACCURACY]
        style = {"color": COLORS[row], "marker": "s" if row == BASELINE else "o", "label": None}
        draw_point(axes, cycles, accuracy.mean, accuracy.std, style)
        labels.append(PointLabel(text, cycles, accuracy.mean, is_important=row == BASELINE))
    set_log_scale(axes, "x", lambda value: f"{value / 1000:,g}k", base=10)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=1))
    axes.margins(x=0.2, y=0.25)
    place_labels(axes, labels)


def format_table(tables: Mapping[str, Table]) -> str:
    """Return a Markdown table of all nets and rows."""
    heads = ["Net", "Row", "Accuracy test", *COUNTS.values(), "x86 p50 µs"]
    for title in TARGETS.values():
        heads += [f"{title} cycles (est.)", "gain", "flash bytes (est.)"]
    lines = [_join(heads), _join(["---", "---", *["---:"] * (len(heads) - 2)])]
    for net, table in tables.items():
        lines += [_join([NETS[net], escape_markdown(row), *_list_values(table, row)]) for row in table]
    return "\n".join([INTRODUCTION, *format_gains(tables), "", *lines, ""])


def format_gains(tables: Mapping[str, Table]) -> list[str]:
    """Return the lines of a Markdown table: by row and net the gain on each NPU, and what it costs in accuracy."""
    names = " and ".join(TARGETS.values())
    lines = [
        f"Gains on {names}, in parentheses the change of accuracy, in percentage points, from `{BASELINE}`:",
        "",
        _join(["Row", *(NETS[net] for net in tables)]),
        _join(["---", *["---:"] * len(tables)]),
    ]
    for row in LABELS:
        if row != BASELINE:
            lines.append(_join([escape_markdown(row), *(_summarize_gain(table, row) for table in tables.values())]))
    return lines


def _summarize_gain(table: Table, row: str) -> str:
    cells, baseline = table[row], table[BASELINE]
    gains = (baseline[name].mean / cells[name].mean for name in map(name_metric, TARGETS))
    change = 100 * (cells[ACCURACY].mean - baseline[ACCURACY].mean)
    return f"{', '.join(f'{gain:.1f}x' for gain in gains)} ({change:+.1f})"


def _list_values(table: Table, row: str) -> list[str]:
    cells, baseline = table[row], table[BASELINE]
    accuracy = cells[ACCURACY]
    spread = "one seed" if accuracy.std is None else f"± {100 * accuracy.std:.2f}"
    values = [f"{accuracy.mean:.2%} {spread}"]
    values += [_format(cells, name, ",.0f") for name in COUNTS]
    values.append(_format(cells, LATENCY, ",.1f"))
    for target in TARGETS:
        cycles = name_metric(target)
        gain = f"{baseline[cycles].mean / cells[cycles].mean:.2f}x" if cycles in cells else MISSING
        values += [_format(cells, cycles, ",.0f"), gain, _format(cells, name_metric(target, "flash_bytes"), ",.0f")]
    return values


def _format(cells: Mapping[str, Cell], name: str, spec: str) -> str:
    return format(cells[name].mean, spec) if name in cells else MISSING


def _join(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Write the figure and the table."""
    tables = {net: read_table(net) for net in NETS}
    OUTPUT.mkdir(exist_ok=True)
    with use_style(REPORT_STYLE):
        figure = draw_figure(tables)
        replace_file(OUTPUT / "cycles.svg", render_svg(figure))
        replace_file(OUTPUT / "cycles.pdf", render_pdf(figure))
    replace_file(OUTPUT / "table.md", format_table(tables).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
