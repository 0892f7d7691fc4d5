"""How much of each microcontroller's memory a run's file takes, as a table: read from its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightexp.core.columns import MISSING
from lightexp.core.record import Record
from lightexp.core.table import Table, TableColumn

_SIZES = ("flash", "ram", "flash_taken", "ram_taken")


def build_fit_table(record: Record) -> Table | None:
    """Return a table with a row for each board that the shipped file was checked against; None if there was none.

    Args:
        record: The run's record.
    """
    metrics, rows = record.metrics, []
    for name, board in _find_boards(record.config).items():
        fits = metrics.get(f"fits/{name}")
        if fits is None or not all(isinstance(board.get(key), int) for key in _SIZES):
            continue
        cells = [
            _describe_use(metrics.get(metric), (board[kind] - board[f"{kind}_taken"]) * 1024)
            for metric, kind in (("size/file_bytes", "flash"), ("micro/arena_bytes", "ram"))
        ]
        rows.append([name, str(board.get("core", MISSING)), "yes" if fits else "no", *cells])
    if not rows:
        return None
    heads: list[TableColumn | str] = ["Board", "Core", "Fits", "Flash: taken of free, left", "RAM: taken of free, left"]
    return Table.from_text(heads, rows)


def _find_boards(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the boards of a record's config, which nothing has checked."""
    deploy = config.get("deploy")
    targets = deploy.get("targets") if isinstance(deploy, Mapping) else None
    boards = targets if isinstance(targets, Mapping) else {}
    return {name: board for name, board in boards.items() if isinstance(board, Mapping)}


def _describe_use(taken: float | None, free: int) -> str:
    """Return such as `10.4 of 928 KiB, 917.6 left`, or a dash where it was not measured."""
    if taken is None:
        return MISSING
    left = free - taken
    margin = f"{left / 1024:,.1f} left" if left >= 0 else f"{-left / 1024:,.1f} too many"
    return f"{taken / 1024:,.1f} of {max(free, 0) / 1024:,.0f} KiB, {margin}"
