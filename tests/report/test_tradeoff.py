"""Table and plot of one run's stages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lightexp.core.protocols import Metric
from lightexp.report import tradeoff


def parse_rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_table_starts_with_the_control(make_record):
    record = make_record()
    record.stages[-1].metrics.append(Metric("size/gzip_bytes", 20_000))
    record.stages.reverse()
    rows = parse_rows(tradeoff.render_table(record))
    assert rows[0][:4] == ["Stage", "Accuracy val", "Accuracy test", "File bytes"]
    assert [row[0] for row in rows[2:]] == ["train (control)", "quantize", "prune"]
    assert rows[2][1:6] == ["98.00%", "97.00%", "112,960", "–", "1.0x"]
    assert rows[3][5] == "4.0x"
    assert rows[0] == ["Stage", "Accuracy val", "Accuracy test", "File bytes", "Gzip bytes", "Ratio"]
    assert {len(row) for row in rows} == {len(rows[0])}


def test_table_escapes_names_and_lists_waivers(make_record):
    record = make_record(waived={"sparsity": "0.80 became 0.20"})
    record.stages[1].name = "a|b_<c>"
    text = tradeoff.render_table(record)
    assert r"a\|b\_\<c\>" in text
    assert "waived sparsity: 0.80 became 0.20" in text


def read_texts(path):
    root = ElementTree.fromstring(path.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", ["a<b>&c", "$x_1$", "pr_une^2", "量子化", "tab\there", r"\frac{1}"])
def test_plot_shows_any_name_as_text(make_record, tmp_path, name):
    record = make_record(name=name)
    record.stages[1].name = name
    tradeoff.draw(record, tmp_path / "x.svg")
    labels = read_texts(tmp_path / "x.svg")
    assert name.replace("\t", "?") in labels
    assert "train" in labels
    assert "accuracy (test)" in labels
    assert {"control", "stage", "ships"} <= set(labels)


def test_plot_falls_back_to_validation(make_record, tmp_path):
    record = make_record()
    record.stages[2].metrics = [metric for metric in record.stages[2].metrics if metric.name != "accuracy/test"]
    tradeoff.draw(record, tmp_path / "x.svg")
    assert "accuracy (validation)" in read_texts(tmp_path / "x.svg")


@pytest.mark.parametrize("count", [0, 1])
def test_plot_of_few_points(make_record, tmp_path, count):
    record = make_record()
    record.stages = record.stages[:count]
    tradeoff.draw(record, tmp_path / "x.svg")
    assert ("nothing was measured" in read_texts(tmp_path / "x.svg")) == (count == 0)


def test_plot_of_equal_points_and_odd_values(make_record, tmp_path):
    record = make_record()
    for stage in record.stages[:2]:
        stage.metrics = [Metric("accuracy/val", 0.5), Metric("size/file_bytes", 4096.0)]
    record.stages[2].metrics = [Metric("accuracy/val", float("nan")), Metric("size/file_bytes", 0.0)]
    tradeoff.draw(record, tmp_path / "x.svg")
    labels = read_texts(tmp_path / "x.svg")
    assert "train" in labels
    assert "prune" in labels
    assert "quantize" not in labels


def test_write_gives_the_same_bytes_in_another_process(make_record, tmp_path):
    record = make_record(status="done")
    record.write(tmp_path)
    tradeoff.write(record, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    code = (
        "import sys, pathlib\nfrom lightexp.core.record import read_record\nfrom lightexp.report import tradeoff\n"
        "tradeoff.write(read_record(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path), str(other)]
    subprocess.run(command, check=True, timeout=60, cwd=Path(__file__).parents[2])
    for name in (tradeoff.TABLE, tradeoff.FIGURE):
        assert (other / name).read_bytes() == (tmp_path / name).read_bytes()
