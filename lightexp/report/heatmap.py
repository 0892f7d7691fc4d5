"""Result of a run's `sensitivity` stage as `sensitivity.csv` and as the heat map `sensitivity.svg`."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
_MAX_WIDTH = 6.75  # inches, of a page
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
        [name, layer.weights, kind, f"{level:g}", value, value - table.baseline]
        for name, layer in table.layers.items()
        for kind, values in layer.levels.items()
        for level, value in values.items()
    ]
    heads = ["layer", "weights", "kind", "level", f"{table.primary.name}/val", "change"]
    path.write_text(render_csv(heads, lines), encoding="utf-8", newline="")


def draw(figure: Any, table: SensitivityTable, title: str) -> None:
    """Draw the validation metric as a heat map: a row for each layer, a panel for each kind of compression.

    Args:
        figure: Empty matplotlib figure; its size is set.
        table: The sensitivities.
        title: Title of the figure.
    """
    kinds: list[tuple[Kind, list[float]]] = [(kind, levels) for kind in KINDS if (levels := table.list_levels(kind))]
    columns = sum(len(levels) for _, levels in kinds)
    figure.set_size_inches(min(1.6 + 0.5 * columns, _MAX_WIDTH), 1.6 + 0.26 * max(len(table.layers), 4))
    widths = {"width_ratios": [len(levels) for _, levels in kinds]}
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False, gridspec_kw=widths)[0]
    grids = [_build_grid(table, kind, levels) for kind, levels in kinds]
    low, high = _find_limits(table, grids)
    colours = "cividis" if table.primary.direction == "max" else "cividis_r"
    number = "{:.0%}".format if table.primary.is_share else "{:.4g}".format
    for axes, grid, (kind, levels) in zip(panels, grids, kinds, strict=True):
        axes.grid(visible=False)
        image = axes.imshow(grid, aspect="auto", cmap=colours, vmin=low, vmax=high)
        axes.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        axes.set_xlabel(_AXIS_LABELS[kind])
        if len(table.layers) <= _MAX_NUMBERED_LAYERS:
            _write_changes(axes, grid, table, (low + high) / 2)
    panels[0].set_yticks(range(len(table.layers)), list(table.layers))
    bar = figure.colorbar(
        image, ax=list(panels), label=f"{table.primary.name}/val", format=lambda value, _: number(value)
    )
    bar.ax.tick_params(labelsize=8)
    change = "change in points" if table.primary.is_share else "change"
    baseline = f"{table.baseline:.2%}" if table.primary.is_share else f"{table.baseline:.4g}"
    figure.suptitle(f"{title}\none layer alone; numbers: {change} from {baseline}", fontsize=9)


def _find_limits(table: SensitivityTable, grids: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the ends of the colour scale: the worst value of all levels, and the baseline."""
    if table.primary.direction == "max":
        low = min(float(np.nanmin(grid)) for grid in grids)
        return low, max(table.baseline, low + 1e-3)
    high = max(float(np.nanmax(grid)) for grid in grids)
    return min(table.baseline, high - 1e-3), high


def _build_grid(table: SensitivityTable, kind: Kind, levels: list[float]) -> NDArray[np.float64]:
    """Return the values as `(layers, levels)`, NaN where a level was not measured."""
    rows = [layer.levels.get(kind, {}) for layer in table.layers.values()]
    return np.array([[row.get(level, math.nan) for level in levels] for row in rows], float)


def _write_changes(axes: Any, grid: NDArray[np.float64], table: SensitivityTable, middle: float) -> None:
    """Write into each cell its change of the metric, dark on light cells and light on dark ones."""
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            is_light = (value > middle) == (table.primary.direction == "max")
            colour = "#000000" if is_light else "#ffffff"
            change = table.primary.factor * (value - table.baseline)
            text = f"{change:+.1f}" if table.primary.is_share else f"{change:+.2g}"
            axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=colour)
