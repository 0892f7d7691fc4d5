"""The table of a run's `sensitivity` stage: `sensitivity.csv` and the heat map `sensitivity.svg`."""

from __future__ import annotations

import csv
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from lightexp.core.record import Record
from lightexp.core.sensitivity import KINDS, Kind, SensitivityTable
from lightexp.report.tradeoff import PLOT_STYLE

TABLE = "sensitivity.csv"
FIGURE = "sensitivity.svg"
_AXES = {"sparsity": "share of zeros", "rank": "share of the highest rank", "bits": "bits of the weights"}
_NUMBERED = 40  # layers whose cells bear numbers


def find_last_table(record: Record) -> SensitivityTable | None:
    """The table of a run's last `sensitivity` stage, if it has one."""
    return next((table for stage in reversed(record.stages) if (table := SensitivityTable.of(stage.facts))), None)


def write(record: Record, folder: Path) -> dict[str, str]:
    """Writes a run's table and heat map into `folder`, if there are any; the same record gives the same bytes.

    Returns:
        The files by what they are.
    """
    table = find_last_table(record)
    if not table:
        return {}
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["layer", "weights", "kind", "level", "accuracy/val", "change"])
        for name, row in table.layers.items():
            for kind, levels in row.levels.items():
                for level, found in levels.items():
                    lines.writerow([name, row.weights, kind, f"{level:g}", found, found - table.accuracy])
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(PLOT_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that this machine's font lacks is the viewer's to find
        figure = Figure(layout="constrained")
        draw(figure, table, record.name)
        figure.savefig(folder / FIGURE, format="svg", metadata={"Date": None})
    return {"sensitivity": TABLE, "heat map": FIGURE}


def draw(figure: Any, table: SensitivityTable, title: str) -> None:
    """Draws a heat map of validation accuracy: a row for each layer, and beside each other sparsity, rank and bits."""
    kinds: list[tuple[Kind, list[float]]] = [(kind, levels) for kind in KINDS if (levels := table.levels(kind))]
    figure.set_size_inches(1.6 + 0.5 * sum(len(levels) for _, levels in kinds), 1.6 + 0.26 * max(len(table.layers), 4))
    shape = {"width_ratios": [len(levels) for _, levels in kinds]}
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False, gridspec_kw=shape)[0]
    grids = [
        np.array([[row.levels.get(kind, {}).get(x, math.nan) for x in levels] for row in table.layers.values()], float)
        for kind, levels in kinds
    ]
    low = min(float(np.nanmin(grid)) for grid in grids)
    high = max(table.accuracy, low + 1e-3)
    for axes, grid, (kind, levels) in zip(panels, grids, kinds, strict=True):
        axes.grid(visible=False)
        image = axes.imshow(grid, aspect="auto", cmap="cividis", vmin=low, vmax=high)
        axes.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        axes.set_xlabel(_AXES[kind])
        for place, found in np.ndenumerate(grid):
            if len(table.layers) <= _NUMBERED and np.isfinite(found):
                colour = "#000000" if found > (low + high) / 2 else "#ffffff"
                words = f"{100 * (found - table.accuracy):+.1f}"
                axes.text(place[1], place[0], words, ha="center", va="center", fontsize=6.5, color=colour)
    panels[0].set_yticks(range(len(table.layers)), list(table.layers))
    bar = figure.colorbar(image, ax=list(panels), label="accuracy/val", format=lambda value, _: f"{value:.0%}")
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(f"{title}\none layer alone; numbers: change in points from {table.accuracy:.2%}", fontsize=9)
