"""Records: writing, reading, tables and metrics."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.columns import COLUMNS, MISSING
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Metric
from lightexp.core.record import FORMAT, RECORD_FILE, Record, StageRecord, parse_record, read_record


@pytest.fixture
def record() -> Record:
    metrics = [Metric("accuracy/val", 0.5, "", "max", "val", 2), Metric("size/file_bytes", 100, "bytes", "min")]
    stages = [
        StageRecord("train", "k" * 64, False, 1.25, metrics, {"history": {"loss": [1.0, 0.5]}, "notes": ["µ"]}),
        StageRecord("prune", "l" * 64, True, 0.5, [*metrics, Metric("accuracy/test", 0.25)]),
    ]
    return Record(
        "2026-01-01_00-00-00-abc123",
        "small_cnn digits train-prune",
        "lightexp run seed=1",
        {"seed": 1, "pipeline": {"stages": {"prune": {"layers": {"conv*": 0.5}}}, "order": ["train"]}},
        ["seed=1"],
        {"threads": 2, "git": {"commit": None, "dirty": None}},
        1.5,
        stages=stages,
    )


def test_read_record_returns_what_was_written(record: Record, tmp_path: Path) -> None:
    record.write(tmp_path)
    assert read_record(tmp_path) == record
    record.status, record.reason, record.ended, record.control = "failed", "a disk\nfull of “words”", 2.5, "train"
    record.waived, record.files, record.mlflow = {"sparsity": "prune: kept"}, {"model": "m\udce9"}, {"missing": "none"}
    record.dataset = {"name": "digits", "splits": {"val": {"n": 3, "digest": "d"}}}
    record.write(tmp_path)
    assert read_record(tmp_path) == record
    assert [p.name for p in tmp_path.iterdir()] == [RECORD_FILE]  # no temporary file is left


def test_entry_keys_are_of_record_and_stages_once(record: Record) -> None:
    assert record.entry_keys == ["k" * 64, "l" * 64]
    record.keys = ["t" * 64, "l" * 64]
    assert record.entry_keys == ["t" * 64, "l" * 64, "k" * 64]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_metric_that_is_not_finite_is_left_out(record: Record, tmp_path: Path, value: float) -> None:
    record.stages[0].metrics.append(Metric("loss/val", value))
    record.stages[0].facts["history"]["loss"].append(value)
    text = json.dumps({**vars(record), "stages": [vars(stage) for stage in record.stages]}, default=vars)
    (tmp_path / RECORD_FILE).write_text(text)  # as version 0.1 wrote it
    assert read_record(tmp_path).stages[0].metric("loss/val") is None
    record.write(tmp_path)
    json.loads((tmp_path / RECORD_FILE).read_text(), parse_constant=pytest.fail)
    stage = read_record(tmp_path).stages[0]
    assert stage.values == {"accuracy/val": 0.5, "size/file_bytes": 100}
    assert stage.facts["history"] == {"loss": [1.0, 0.5, None]}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("size/file_bytes", -1, "metric size/file_bytes: a size cannot be negative. Received: -1."),
        ("mse/test", 1e101, "metric mse/test: its absolute value is above 1e+100. Received: 1e+101."),
        ("mse/test", -1e101, "metric mse/test: its absolute value is above 1e+100. Received: -1e+101."),
    ],
)
def test_metric_that_cannot_be_is_refused(
    record: Record, tmp_path: Path, name: str, value: float, problem: str
) -> None:
    record.stages[0].metrics.append(Metric(name, value))
    record.write(tmp_path)
    with pytest.raises(BadInput, match=re.escape(problem)):
        read_record(tmp_path)


def test_metrics_are_those_of_the_shipped_file(record: Record) -> None:
    assert record.metrics == {"accuracy/val": 0.5, "size/file_bytes": 100, "accuracy/test": 0.25}
    assert record.stages[0].metric("accuracy/test") is None
    assert record.stages[0].metric("size/file_bytes") == 100
    assert Record("i", "n", "c", {}, [], {}, 0.0).metrics == {}


def test_record_shows_its_table(record: Record) -> None:
    record.control, record.status, record.waived = "prune", "done", {"sparsity": "prune: <kept>"}
    headings, first, second = record.build_table().texts
    names = ("accuracy/val", "accuracy/test", "size/file_bytes")
    assert headings == ["Stage", *(column.heading for column in COLUMNS if column.name in names)]
    assert first[:4] == ["prune (control)", "50.00%", "25.00%", "100"]
    assert second[:4] == ["train", "50.00%", MISSING, "100"]
    title, *lines, waived = record.table().splitlines()
    assert title == "small_cnn digits train-prune: done" and waived == "waived sparsity: prune: <kept>"
    assert [line.split("  ")[0] for line in lines] == ["Stage", "prune (control)", "train"]
    assert len({len(line) for line in lines}) == 1
    page = record._repr_html_()
    assert all(f"<td>{cell}</td>" in page for cell in (*first, *second))
    assert page.count("<tr>") == 3 and "prune: &lt;kept&gt;" in page
    record.status, record.reason, record.stages = "failed", "a disk full", []
    assert record.table().splitlines()[0] == "small_cnn digits train-prune: failed (a disk full)"
    assert "failed (a disk full)" in record._repr_html_()


def remove(name: str, group: str | None = None) -> Any:
    """Return a function that removes a field from a record, or from the first item of a list in it."""

    def change(values: dict[str, Any]) -> dict[str, Any]:
        fields = values[group][0] if group else values
        del fields[name]
        return values

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda values: {**values, "more": 1},
        lambda values: {**values, "stages": None},
        lambda values: {**values, "stages": [{**values["stages"][0], "metrics": [{"nom": "a"}]}]},
        lambda values: [values],
        remove("started"),
        remove("stages"),
        remove("key", "stages"),
    ],
)
def test_read_record_refuses_wrong_values(record: Record, tmp_path: Path, change: Any) -> None:
    record.write(tmp_path)
    path = tmp_path / RECORD_FILE
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(BadInput, match=r"is not a record: .*Run it again, or leave its folder out") as caught:
        read_record(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b'{"id": "cut', b"\xff\xfe\x00\x01", b"null", b"3"])
def test_read_record_refuses_wrong_bytes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / RECORD_FILE).write_bytes(content)
    with pytest.raises(BadInput, match="is not a record"):
        read_record(tmp_path)


def test_read_record_says_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, problem in (
        (tmp_path, "holds no record.json"),
        (tmp_path / "nope", "does not exist"),
        (tmp_path / "file", "is no folder"),
    ):
        with pytest.raises(BadInput) as caught:
            read_record(folder)
        assert str(caught.value) == f"{folder} {problem}. Give a run's folder, such as outputs/runs/RUN."


def test_read_record_refuses_other_formats(record: Record, tmp_path: Path) -> None:
    record.write(tmp_path)
    path = tmp_path / RECORD_FILE
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', '"format": 99'))
    with pytest.raises(BadInput, match=f"it is of format 99; this lightexp reads formats 1 and {FORMAT}"):
        read_record(tmp_path)


def test_columns_format_values() -> None:
    formats = {column.name: column.format for column in COLUMNS}
    assert formats["accuracy/val"](0.98765) == "98.77%"
    assert formats["size/file_bytes"](112960) == "112,960"
    assert formats["size/ratio"](3.96) == "4.0x"
    assert formats["latency/p50_us"](1234.56) == "1,234.6"
    assert {formats["model/params"](value) for value in (None, math.nan, math.inf)} == {MISSING}
    assert len(formats) == len(COLUMNS)


@pytest.mark.parametrize("key", ["../../outside", "/outside", "", "k/l"])
def test_store_keys_that_are_paths_are_refused(record: Record, key: str) -> None:
    values = json.loads(record.to_json())
    with pytest.raises(ValueError, match=r"keys\.0: String should match"):
        parse_record({**values, "keys": [key]})
    values["stages"][0]["key"] = key
    with pytest.raises(ValueError, match=r"stages\.0\.key: String should match"):
        parse_record(values)


def test_metric_of_a_record_is_as_its_constructor_makes_it(record: Record) -> None:
    values = json.loads(record.to_json())
    values["stages"][0]["metrics"] = [{"name": "size/file_bytes", "value": 7}, {**vars(Metric("a", 0.5, "s", "min"))}]
    metrics = parse_record(values).stages[0].metrics
    assert list(map(vars, metrics)) == [vars(Metric("size/file_bytes", 7)), vars(Metric("a", 0.5, "s", "min"))]
    assert [type(metric.value) for metric in metrics] == [float, float]
