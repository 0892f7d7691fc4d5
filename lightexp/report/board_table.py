"""Which rows of a report fit on which microcontrollers and NPUs, and how much of their memory they take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from lightexp.core.columns import MISSING
from lightexp.report.data import Report
from lightexp.report.runs import Run

_FITS = "fits/"
_BOARD_SIZES: Mapping[str, tuple[str, ...]] = {"flash": ("size/file_bytes",), "ram": ("micro/arena_bytes",)}
_NPU_SIZES: Mapping[str, tuple[str, ...]] = {"flash": ("flash_bytes", "dram_bytes"), "sram": ("sram_bytes",)}
"""Metrics whose sum has to fit, by the kind of memory; see `lightexp.core.board_fit`."""


def build_board_table(report: Report) -> dict[str, Any]:
    """Return a table with a row for each row of the report that was checked against boards.

    Args:
        report: The report.

    Returns:
        `heads` and `rows`, as the page shows them; a cell says in how many runs the file fits, and the largest shares
        of the free flash and RAM that it takes.
    """
    runs_by_row: defaultdict[str, list[Run]] = defaultdict(list)
    for run in report.runs:
        runs_by_row[run.row].append(run)
    names = (name for run in report.runs for name in run.metrics if name.startswith(_FITS))
    boards = [name.removeprefix(_FITS) for name in dict.fromkeys(names)]
    rows = [[row, *(_describe(runs, board) for board in boards)] for row, runs in runs_by_row.items()] if boards else []
    return {"heads": ["Row", *boards], "rows": rows}


def _describe(runs: Sequence[Run], board: str) -> str:
    """Return such as `fits: flash 4%, RAM 12%`, or `2 of 3 fit: ...` where seeds differ."""
    fits = [run.metrics[f"{_FITS}{board}"] for run in runs if f"{_FITS}{board}" in run.metrics]
    if not fits:
        return MISSING
    count = sum(map(bool, fits))
    outcome = f"{count} of {len(fits)} fit"
    if count in (0, len(fits)):
        outcome = "fits" if count else "does not fit"
    sizes = {(f"deploy.targets.{board}", kind): names for kind, names in _BOARD_SIZES.items()}
    for kind, names in _NPU_SIZES.items():
        sizes[f"deploy.npus.{board}", kind] = tuple(f"npu/{board}/{name}" for name in names)
    uses = []
    for (target, kind), metrics in sizes.items():
        shares = [share for run in runs if (share := _find_share(run, target, metrics, kind)) is not None]
        if shares:
            uses.append(f"{kind if kind == 'flash' else kind.upper()} {max(shares):.0%}")
    return f"{outcome}: {', '.join(uses)}" if uses else outcome


def _find_share(run: Run, target: str, metrics: Sequence[str], kind: str) -> float | None:
    """Return the share of a target's free memory that a run's file takes; None where the record does not say."""
    used = [run.metrics[name] for name in metrics if name in run.metrics]
    try:
        total, taken = float(run.settings[f"{target}.{kind}"]), float(run.settings.get(f"{target}.{kind}_taken", 0))
        return sum(used) / ((total - taken) * 1024) if used else None
    except (KeyError, ValueError, ZeroDivisionError):  # records may come from anywhere
        return None
