"""Columns of the tables of runs: formats, missing values and selection."""

from __future__ import annotations

import math

import pytest

from lightexp.core.columns import COLUMNS, MISSING, build_metrics_table, select_columns
from lightexp.core.primary_metric import PrimaryMetric

CELLS = [
    ("accuracy/val", 0.97223, "97.22%"),
    ("size/file_bytes", 12345.0, "12,345"),
    ("size/ratio", 3.94, "3.9x"),
    ("model/sparsity", 0.8, "80.0%"),
    ("compute/macs", 1e6, "1,000,000"),
    ("latency/p50_us", 12.34, "12.3"),
    ("latency/p50_us", 1234.56, "1,234.6"),
]


@pytest.mark.parametrize(("name", "value", "text"), CELLS)
def test_column_formats_a_value(name: str, value: float, text: str) -> None:
    column = next(column for column in COLUMNS if column.name == name)
    assert column.format(value) == text


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_column_shows_a_dash_for_missing_values(value: float | None) -> None:
    assert MISSING == "–"
    assert {column.format(value) for column in COLUMNS} == {MISSING}


def test_column_names_are_unique() -> None:
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)


def test_select_columns_drops_columns_without_values() -> None:
    columns = select_columns([{"size/ratio": 1.0, "other": 2.0}, {"accuracy/val": 0.5}])
    assert [column.name for column in columns] == ["accuracy/val", "size/ratio"]
    assert select_columns([]) == []


def test_select_columns_adds_the_primary_metric() -> None:
    rows = [{"accuracy/val": 0.5, "f1_macro/val": 0.4, "mine/test": 3.0}]
    assert [column.heading for column in select_columns(rows)] == ["Accuracy val"]
    assert [column.heading for column in select_columns(rows, "f1_macro")] == ["Macro F1 val", "Accuracy val"]
    assert [column.heading for column in select_columns(rows, "mine")] == ["mine/test", "Accuracy val"]


def test_build_metrics_table_has_a_row_for_each_name() -> None:
    table = build_metrics_table("Job", [("a", {"size/ratio": 2.0}), ("b", {"accuracy/val": 0.5})], "title", ["note"])
    assert table.texts == [["Job", "Accuracy val", "Ratio"], ["a", "–", "2.0x"], ["b", "50.00%", "–"]]
    assert (table.caption, table.notes) == ("title", ("note",))


def test_metrics_table_marks_doubtful_latencies() -> None:
    noisy = {"latency/p50_us": 2.0, "latency/p95_us": 5.0, "latency/spread": 0.2, "size/file_bytes": 9}
    rows = [("train", noisy), ("prune", {**noisy, "latency/spread": 0.0}), ("quantize", noisy)]
    table = build_metrics_table("Stage", rows, notes=["x"])
    assert table.texts[1] == ["train", "9", "2.0‡", "5.0‡"]
    assert table.notes == (
        "x",
        "‡ doubtful latency (noisy, p95 is above twice p50): train, quantize",
        "‡ doubtful latency (p95 is above twice p50): prune",
    )
    quiet = {**noisy, "latency/p95_us": 4.0, "latency/spread": 0.03}
    assert build_metrics_table("Stage", [("train", quiet)]).texts[1:] == [["train", "9", "2.0", "4.0"]]


def test_table_names_the_unit_of_the_primary_metric() -> None:
    primary = PrimaryMetric("rmse", "min", 80.0, "mm", is_share=False)
    table = build_metrics_table("Stage", [("train", {"rmse/val": 2.0, "mae/test": 1.0})], primary=primary)
    assert table.texts[0] == ["Stage", "RMSE val (mm)", "MAE test"]
