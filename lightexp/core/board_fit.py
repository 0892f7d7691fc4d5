"""How much of the memory of each microcontroller and NPU a run's file takes, as a table: read from its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightexp.core.columns import MISSING
from lightexp.core.record import Record
from lightexp.core.table import Table, TableColumn

_SIZES = ("flash", "ram", "flash_taken", "ram_taken")


def build_fit_table(record: Record) -> Table | None:
    """Return a table with a row for each board or NPU that the shipped file was checked against; None without any.

    Args:
        record: The run's record.
    """
    metrics, rows = record.metrics, []
    for name, board in find_targets(record.config, "targets").items():
        fits = metrics.get(f"fits/{name}")
        if fits is None or not all(isinstance(board.get(key), int) for key in _SIZES):
            continue
        cells = [
            _describe_use(metrics.get(metric), (board[kind] - board[f"{kind}_taken"]) * 1024)
            for metric, kind in (("size/file_bytes", "flash"), ("micro/arena_bytes", "ram"))
        ]
        rows.append([name, str(board.get("core", MISSING)), "yes" if fits else "no", *cells])
    for name, npu in find_targets(record.config, "npus").items():
        if (fits := metrics.get(f"fits/{name}")) is not None:
            flash = [metrics[n] for n in (f"npu/{name}/flash_bytes", f"npu/{name}/dram_bytes") if n in metrics]
            cells = [
                _describe_npu_use(sum(flash) if flash else None, npu, "flash"),
                _describe_npu_use(metrics.get(f"npu/{name}/sram_bytes"), npu, "sram"),
            ]
            rows.append([name, f"{npu.get('accelerator', MISSING)} (est.)", "yes" if fits else "no", *cells])
    if not rows:
        return None
    headings: list[TableColumn | str] = [
        "Board",
        "Core",
        "Fits",
        "Flash: taken of free, left",
        "RAM: taken of free, left",
    ]
    return Table.from_text(headings, rows)


def find_targets(config: Mapping[str, Any], kind: str) -> dict[str, Mapping[str, Any]]:
    """Return the boards or NPUs of a config that nothing has checked, such as a record's.

    Args:
        config: The config.
        kind: `targets`, the boards, or `npus`.
    """
    deploy = config.get("deploy")
    targets = deploy.get(kind) if isinstance(deploy, Mapping) else None
    named = targets if isinstance(targets, Mapping) else {}
    return {name: target for name, target in named.items() if isinstance(target, Mapping)}


def _describe_npu_use(taken: float | None, npu: Mapping[str, Any], kind: str) -> str:
    """Return as `_describe_use`, or a dash where the target does not state its memory."""
    total, reserved = npu.get(kind), npu.get(f"{kind}_taken", 0)
    if not isinstance(total, int) or not isinstance(reserved, int):
        return MISSING
    return _describe_use(taken, (total - reserved) * 1024)


def _describe_use(taken: float | None, free: int) -> str:
    """Return such as `10.4 of 928 KiB, 917.6 left`, or a dash where it was not measured."""
    if taken is None:
        return MISSING
    remaining = free - taken
    margin = f"{remaining / 1024:,.1f} left" if remaining >= 0 else f"{-remaining / 1024:,.1f} too many"
    return f"{taken / 1024:,.1f} of {max(free, 0) / 1024:,.0f} KiB, {margin}"
