"""Tests of the page's table of boards."""

from __future__ import annotations

from lightexp.core.metrics import Metric
from lightexp.core.record import Record
from lightexp.report.board_table import build_board_table
from lightexp.report.html import render_page
from lightexp.report.runs import name_rows
from lightexp.report.summary import build_summary
from lightexp.report.table_spec import TableSpec
from tests.synthetic import synthesize_record

BOARD = {"flash": 200, "ram": 20, "flash_taken": 100, "ram_taken": 10}


def make_record(seed: int, arena: float, flash: object = 200) -> Record:
    record = synthesize_record("int8", seed, number=seed)
    record.config["deploy"] = {"targets": {"mine": {**BOARD, "flash": flash}}}
    metrics = [m for m in record.stages[-1].metrics if m.name != "size/file_bytes"]
    fits = float(arena <= 10 * 1024)
    metrics += [Metric("size/file_bytes", 51_200.0), Metric("micro/arena_bytes", arena), Metric("fits/mine", fits)]
    record.stages[-1].metrics = metrics
    return record


def build(*records: Record) -> dict[str, object]:
    return build_board_table(build_summary(name_rows(records), TableSpec("a")))


def test_board_table_gives_the_largest_shares() -> None:
    control = synthesize_record("control", 0, ("train",), number=99)
    assert build(control, make_record(0, 1024.0), make_record(1, 2048.0)) == {
        "heads": ["Row", "mine"],
        "rows": [["control", "–"], ["int8", "fits: flash 50%, RAM 20%"]],
    }
    table = build(make_record(0, 20 * 1024.0), make_record(1, 2048.0))
    assert table["rows"] == [["int8", "1 of 2 fit: flash 50%, RAM 200%"]]
    assert build(make_record(0, 20 * 1024.0))["rows"] == [["int8", "does not fit: flash 50%, RAM 200%"]]


def test_board_table_survives_strange_records() -> None:
    assert build(make_record(0, 1024.0, "<b>"))["rows"] == [["int8", "fits: RAM 10%"]]
    assert build(make_record(0, 1024.0, 100))["rows"] == [["int8", "fits: RAM 10%"]]


def test_board_table_gives_shares_of_an_npu() -> None:
    record = make_record(0, 1024.0)
    record.config["deploy"]["npus"] = {"chip": {"accelerator": "ethos-u55-256", "sram": 20, "sram_taken": 10}}
    record.stages[-1].metrics += [Metric("npu/chip/sram_bytes", 5120.0), Metric("fits/chip", 1.0)]
    assert build(record)["rows"] == [["int8", "fits: flash 50%, RAM 10%", "fits: SRAM 50%"]]
    record.config["deploy"]["npus"]["chip"] |= {"flash": 20, "flash_taken": 10}
    record.stages[-1].metrics += [Metric("npu/chip/flash_bytes", 1024.0), Metric("npu/chip/dram_bytes", 2048.0)]
    assert build(record)["rows"] == [["int8", "fits: flash 50%, RAM 10%", "fits: flash 30%, SRAM 50%"]]


def test_board_table_is_empty_without_boards() -> None:
    assert build(synthesize_record())["rows"] == []


def test_page_holds_the_board_table() -> None:
    page = render_page(build_summary(name_rows([make_record(0, 1024.0)]), TableSpec("a")), {})
    assert '"rows":[["int8","fits: flash 50%, RAM 10%"]]' in page
