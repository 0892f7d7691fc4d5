"""Result of a run's `sensitivity` stage as `sensitivity.csv` and as the heat map `sensitivity.svg`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.record import Record
from lightexp.core.sensitivity import KINDS, Kind, SensitivityTable
from lightexp.report.csv_files import render_csv
from lightexp.report.plot_style import save_figure

TABLE = "sensitivity.csv"
FIGURE = "sensitivity.svg"
_AXIS_LABELS = {"sparsity": "share of zeros", "rank": "share of the highest rank", "bits": "bits of the weights"}
_MAX_NUMBERED_LAYERS = 40  # with more layers, cells are too small for numbers


def find_last_table(record: Record) -> SensitivityTable | None:
    """Return the table of the run's last `sensitivity` stage, or None where it has none."""
    tables = (SensitivityTable.find(stage.facts) for stage in reversed(record.stages))
    return next((table for table in tables if table), None)


def write(record: Record, folder: Path) -> dict[str, str]:
    """Write the table and the heat map of a run that has them; the same record gives the same bytes.

    Args:
        record: Record of the run.
        folder: Existing folder for the files.

    Returns:
        The files' names by role; empty for a run without a `sensitivity` stage.
    """
    table = find_last_table(record)
    if not table:
        return {}
    _write_csv(table, folder / TABLE)
    with save_figure(folder / FIGURE, layout="constrained") as figure:
        draw(figure, table, record.name)
    return {"sensitivity": TABLE, "heat map": FIGURE}


def _write_csv(table: SensitivityTable, path: Path) -> None:
    lines = [
        [name, layer.weights, kind, f"{level:g}", accuracy, accuracy - table.accuracy]
        for name, layer in table.layers.items()
        for kind, accuracies in layer.levels.items()
        for level, accuracy in accuracies.items()
    ]
    heads = ["layer", "weights", "kind", "level", "accuracy/val", "change"]
    path.write_text(render_csv(heads, lines), encoding="utf-8", newline="")


def draw(figure: Any, table: SensitivityTable, title: str) -> None:
    """Draw validation accuracy as a heat map: a row for each layer, a panel for each kind of compression.

    Args:
        figure: Empty matplotlib figure; its size is set.
        table: The sensitivities.
        title: Title of the figure.
    """
    kinds: list[tuple[Kind, list[float]]] = [(kind, levels) for kind in KINDS if (levels := table.list_levels(kind))]
    columns = sum(len(levels) for _, levels in kinds)
    figure.set_size_inches(1.6 + 0.5 * columns, 1.6 + 0.26 * max(len(table.layers), 4))
    widths = {"width_ratios": [len(levels) for _, levels in kinds]}
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False, gridspec_kw=widths)[0]
    grids = [_build_grid(table, kind, levels) for kind, levels in kinds]
    low = min(float(np.nanmin(grid)) for grid in grids)
    high = max(table.accuracy, low + 1e-3)
    for axes, grid, (kind, levels) in zip(panels, grids, kinds, strict=True):
        axes.grid(visible=False)
        image = axes.imshow(grid, aspect="auto", cmap="cividis", vmin=low, vmax=high)
        axes.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        axes.set_xlabel(_AXIS_LABELS[kind])
        if len(table.layers) <= _MAX_NUMBERED_LAYERS:
            _write_changes(axes, grid, table.accuracy, (low + high) / 2)
    panels[0].set_yticks(range(len(table.layers)), list(table.layers))
    bar = figure.colorbar(image, ax=list(panels), label="accuracy/val", format=lambda value, _: f"{value:.0%}")
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(f"{title}\none layer alone; numbers: change in points from {table.accuracy:.2%}", fontsize=9)


def _build_grid(table: SensitivityTable, kind: Kind, levels: list[float]) -> NDArray[np.float64]:
    """Return the accuracies as `(layers, levels)`, NaN where a level was not measured."""
    rows = [layer.levels.get(kind, {}) for layer in table.layers.values()]
    return np.array([[row.get(level, math.nan) for level in levels] for row in rows], float)


def _write_changes(axes: Any, grid: NDArray[np.float64], accuracy: float, middle: float) -> None:
    """Write into each cell its change of accuracy in points, dark on light cells and light on dark ones."""
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "#000000" if value > middle else "#ffffff"
            text = f"{100 * (value - accuracy):+.1f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=colour)
