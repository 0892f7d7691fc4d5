"""Tests of the RAM at each operator as a table and a figure."""

from __future__ import annotations

import csv
from pathlib import Path

from lightexp.core.memory_plan import OperatorMemory
from lightexp.report import memory_plot

ROWS = [
    OperatorMemory("conv1", "CONV_2D", (("a", 1024), ("in", 64))),
    OperatorMemory("=1+1 $x$", "MAX_POOL_2D", (("a", 1024), ("b", 256))),
]


def test_write_names_the_peak(tmp_path: Path) -> None:
    assert memory_plot.write(ROWS, tmp_path, "net") == {"RAM table": "ram.csv", "RAM figure": "ram.svg"}
    lines = list(csv.DictReader((tmp_path / "ram.csv").read_text().splitlines()))
    assert [(line["bytes"], line["is peak"]) for line in lines] == [("1088", "0"), ("1280", "1")]
    assert lines[0]["tensors alive"] == "a: 1024; in: 64"
    assert not lines[1]["layer"].startswith("=")  # a spreadsheet would compute it
    drawing = (tmp_path / "ram.svg").read_text()
    assert "peak: 1.25 KiB" in drawing
    first = (tmp_path / "ram.svg").read_bytes()
    memory_plot.write(ROWS, tmp_path, "net")
    assert (tmp_path / "ram.svg").read_bytes() == first


def test_long_networks_show_the_largest(tmp_path: Path) -> None:
    rows = [OperatorMemory(f"layer{i}", "RELU", (("a", 16 * (i + 1)),)) for i in range(70)]
    memory_plot.write(rows, tmp_path, "net")
    drawing = (tmp_path / "ram.svg").read_text()
    assert "layer69 " in drawing
    assert "layer0 " not in drawing


def test_graph_without_operators_has_no_files(tmp_path: Path) -> None:
    assert memory_plot.write([], tmp_path, "net") == {}
    assert not list(tmp_path.iterdir())
