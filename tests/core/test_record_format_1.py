"""Records in format 1, which version 0.1 wrote: reading, reporting, and counting in their ablation."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from lightexp.ablation.results import report_results
from lightexp.ablation.spec import read_spec
from lightexp.core.record import FORMAT, Record
from lightexp.core.records import build_frame
from lightexp.report.runs import name_rows
from tests.run_records import load_records

FORMAT_1 = Path(__file__).parent / "format_1"
BASE = ["dataset=digits", "model=lenet_300_100", "model.width=0.1", "tracking=none", "measure=quick"]
ROWS = {
    "control": ["pipeline=control"],
    "pruned": ["pipeline=prune_quantize", "pipeline.stages.prune.epochs=1", "pipeline.stages.prune.sparsity=0.8"],
}


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Return an outputs folder with the records of an ablation of two rows."""
    for number, path in enumerate(sorted(FORMAT_1.glob("*.json"))):
        folder = tmp_path / "outputs" / "runs" / f"2026-11-30_08-38-0{number}-00000{number}"
        folder.mkdir(parents=True)
        shutil.copyfile(path, folder / "record.json")
    return tmp_path / "outputs"


def load_by_row(outputs: Path) -> dict[str, Record]:
    """Return the records below an outputs folder by the tag of their row."""
    records, messages = load_records(outputs)
    assert messages == []
    return {record.tags["row"]: record for record in records}


def test_old_records_are_read(outputs: Path) -> None:
    assert '"format": 1' in (FORMAT_1 / "pruned.json").read_text()
    record = load_by_row(outputs)["pruned"]
    assert record.format == FORMAT
    assert [stage.name for stage in record.stages] == ["train", "prune", "quantize"]
    assert record.metrics["size/file_bytes"] == 6384
    assert record.stages[0].metric("size/file_bytes") == 11720
    assert record.metrics["model/sparsity"] == pytest.approx(0.8, abs=0.01)
    record.write(outputs)
    assert '"format": 2' in (outputs / "record.json").read_text()


def test_old_records_are_reported(outputs: Path) -> None:
    records = list(load_by_row(outputs).values())
    assert list(build_frame(records)["size/file_bytes"]) == [11720, 6384]
    assert [run.metrics["size/file_bytes"] for run in name_rows(records)] == [11720, 6384]


def test_old_records_count_for_their_ablation(outputs: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    base = [*BASE, "pipeline.stages.train.epochs=1"]
    path.write_text(
        yaml.safe_dump({"claim": "Pruning.", "control": "control", "seeds": [0], "base": base, "rows": ROWS})
    )
    messages: list[str] = []
    report = report_results(read_spec(path, []), outputs, [], messages)
    assert messages == []
    assert {run.row: run.metrics["size/file_bytes"] for run in report.runs} == {"control": 11720, "pruned": 6384}
