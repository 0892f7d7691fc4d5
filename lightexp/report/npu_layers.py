"""What each operator of a run's model costs on NPUs, by the compiler's estimates: `npu.md` in the run's folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lightexp.core.columns import ESTIMATE_NOTE
from lightexp.core.formatting import escape_markdown
from lightexp.core.record import Record
from lightexp.core.table import Table, TableColumn, render_markdown

FILE = "npu.md"
_LAYER = re.compile(r"npu/(?P<target>[^/]+)/layer/(?P<layer>[^/]+)/cycles")
_WAITS = {"npu_cycles": "computing", "sram_cycles": "SRAM", "flash_cycles": "flash or DRAM"}


def write(record: Record, folder: Path) -> dict[str, str]:
    """Write `npu.md` of a run whose model was compiled for an NPU; the same record gives the same bytes.

    Args:
        record: Record of the run.
        folder: Existing folder for the file.

    Returns:
        The file's path by its role in the record; empty where there is nothing to write.
    """
    targets = dict.fromkeys(match["target"] for name in record.metrics if (match := _LAYER.fullmatch(name)))
    if not targets:
        return {}
    lines = [f"# {escape_markdown(record.name)}: cycles by operator (est.)"]
    for target in targets:
        table = build_layer_table(record.metrics, target)
        lines += ["", f"## {escape_markdown(target)}", "", render_markdown(table)]
    (folder / FILE).write_text("\n".join([*lines, "", ESTIMATE_NOTE, ""]), encoding="utf-8")
    return {"npu": FILE}


def build_layer_table(metrics: Mapping[str, float], target: str) -> Table:
    """Return a table with a row for each operator on an NPU, in the order that they run.

    Args:
        metrics: The model's metrics by name.
        target: Name of the NPU's target.
    """
    matches = [match for name in metrics if (match := _LAYER.fullmatch(name)) and match["target"] == target]
    total = sum(metrics[match[0]] for match in matches) or 1.0
    rows = []
    for match in matches:
        parts = {key: metrics[f"npu/{target}/layer/{match['layer']}/{key}"] for key in _WAITS}
        cycles = metrics[match[0]]
        numbers = [f"{value:,.0f}" for value in (cycles, *parts.values())]
        waits = _WAITS[max(parts, key=lambda key: parts[key])]
        rows.append([match["layer"], numbers[0], f"{cycles / total:.1%}", *numbers[1:], waits])
    headings: list[TableColumn | str] = ["Operator", "Cycles", "Share", "Computing", "SRAM", "Flash or DRAM"]
    return Table.from_text([*headings, TableColumn("Waits for", align="left")], rows)
