"""`lightexp.records` finds runs, and the trials of searches, and is never empty in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

import lightexp
from lightexp.core.metrics import Metric
from lightexp.core.record import Record, StageRecord


def write_record(folder: Path, started: float) -> None:
    """Write the record of a run of one stage."""
    record = Record(
        id=folder.name,
        name="lenet5 digits train",
        command="lightexp run",
        config={"seed": 1},
        varied=[],
        environment={},
        started=started,
        status="done",
        stages=[StageRecord("train", "k" * 64, False, 1.0, [Metric("accuracy/val", 0.5)])],
    )
    folder.mkdir(parents=True)
    record.write(folder)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Return an outputs folder with a run and two studies of two trials."""
    write_record(tmp_path / "runs" / "run", 0.0)
    for study in range(2):
        for trial in range(2):
            write_record(tmp_path / "searches" / f"study{study}" / "trials" / f"000{trial}", 1.0 + trial)
    return tmp_path


@pytest.mark.parametrize(
    ("place", "count"),
    [("", 1), ("runs", 1), ("runs/run", 1), ("searches", 4), ("searches/study0", 2), ("searches/study0/trials", 2)],
)
def test_records_finds_runs_and_trials(place: str, count: int, outputs: Path) -> None:
    frame = lightexp.records(outputs / place)
    assert len(frame) == count
    assert list(frame["accuracy/val"]) == [0.5] * count
    assert frame["started"].is_monotonic_increasing


def test_records_finds_trials_where_no_run_is(outputs: Path) -> None:
    for path in (outputs / "runs" / "run").iterdir():
        path.unlink()
    assert len(lightexp.records(outputs)) == 4


def test_records_warns_of_twenty_broken_records(tmp_path: Path) -> None:
    for number in range(22):
        folder = tmp_path / "runs" / f"broken{number}"
        folder.mkdir(parents=True)
        (folder / "record.json").write_text("{")
    with pytest.warns(UserWarning, match="is not a record|are left out") as warned:
        assert len(lightexp.records(tmp_path)) == 0
    assert [str(warning.message) for warning in warned][20:] == [
        "22 records are left out in all; the first 20 are named"
    ]


def test_records_warns_of_a_trial_that_a_link_hides(tmp_path: Path) -> None:
    write_record(tmp_path / "searches" / "a" / "trials" / "0000", 1.0)
    (tmp_path / "searches" / "a" / "trials" / "0001").symlink_to("0001")
    with pytest.warns(UserWarning, match="0001/record.json is not a record: Too many levels"):
        assert list(lightexp.records(tmp_path)["id"]) == ["0000"]


def test_records_warns_of_a_folder_without_records(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=f"no run and no trial is recorded in {tmp_path}. Name an outputs folder"):
        assert lightexp.records(tmp_path).empty


def test_records_refuses_what_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(lightexp.BadInput, match="missing is not a folder"):
        lightexp.records(tmp_path / "missing")
