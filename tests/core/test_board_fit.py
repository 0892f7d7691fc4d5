"""Tests of the table of boards in a run's record."""

from __future__ import annotations

from typing import Any

import pytest

from lightexp.core.board_fit import build_fit_table
from lightexp.core.metrics import Metric
from lightexp.core.record import Record, StageRecord
from lightexp.core.table import render_text

BOARD = {"flash": 100, "ram": 20, "flash_taken": 90, "ram_taken": 16}


def make_record(boards: Any, **metrics: float) -> Record:
    stage = StageRecord("quantize", "key", False, 1.0, [Metric(n.replace("__", "/"), v) for n, v in metrics.items()])
    return Record("id", "name", "lightexp run", {"deploy": {"targets": boards}}, [], {}, 0.0, stages=[stage])


def test_each_board_has_a_row() -> None:
    boards = {"mine": BOARD, "small": {**BOARD, "flash": 91, "core": "Cortex-M0 at 16 MHz"}}
    metrics = {"size__file_bytes": 5120.0, "micro__arena_bytes": 1536.0, "fits__mine": 1.0, "fits__small": 0.0}
    table = build_fit_table(make_record(boards, **metrics))
    assert table is not None
    text = " ".join(render_text(table).split())
    assert "mine – yes 5.0 of 10 KiB, 5.0 left 1.5 of 4 KiB, 2.5 left" in text
    assert "small Cortex-M0 at 16 MHz no 5.0 of 1 KiB, 4.0 too many 1.5 of 4 KiB, 2.5 left" in text


def test_file_that_does_not_run_has_no_ram() -> None:
    table = build_fit_table(make_record({"mine": BOARD}, size__file_bytes=5120.0, fits__mine=0.0))
    assert table is not None
    assert "5.0 left –" in " ".join(render_text(table).split())


def test_each_npu_that_states_its_memory_has_a_row() -> None:
    chip = {"accelerator": "ethos-u55-256", "sram": 20, "flash": 100, "sram_taken": 16}
    values = {
        "npu/chip/flash_bytes": 5120.0,
        "npu/chip/dram_bytes": 0.0,
        "npu/chip/sram_bytes": 8192.0,
        "fits/chip": 0.0,
    }
    record = make_record({})
    record.config["deploy"]["npus"] = {"chip": chip, "dram": {"sram": 384}, "bad": {"sram": "3"}, "other": 3}
    values |= {"fits/dram": 1.0, "npu/dram/sram_bytes": 1024.0, "fits/bad": 1.0}
    record.stages[0].metrics = [Metric(name, value) for name, value in values.items()]
    table = build_fit_table(record)
    assert table is not None
    text = " ".join(render_text(table).split())
    assert "chip ethos-u55-256 (est.) no 5.0 of 100 KiB, 95.0 left 8.0 of 4 KiB, 4.0 too many" in text
    assert "dram – (est.) yes – 1.0 of 384 KiB, 383.0 left" in text
    assert "bad – (est.) yes – –" in text


@pytest.mark.parametrize("boards", [None, 3, {}, {"mine": 3}, {"mine": {"flash": 3}}, {"other": BOARD}])
def test_other_records_have_no_table(boards: Any) -> None:
    assert build_fit_table(make_record(boards, fits__mine=1.0)) is None
