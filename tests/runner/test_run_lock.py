"""Locks that mark running runs, and the records of runs whose processes have died."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightexp.core.record import Record, read_record
from lightexp.runner import run_lock
from tests.dead_runs import write_dead_run
from tests.special_files import SPECIAL_FILES, deadline


def test_hold_marks_a_run_as_alive(tmp_path: Path) -> None:
    assert not run_lock.is_alive(tmp_path, "a")
    with run_lock.hold(tmp_path, "a"):
        assert run_lock.is_alive(tmp_path, "a")
    assert not run_lock.is_alive(tmp_path, "a")
    assert list((tmp_path / ".live").iterdir()) == []


@pytest.mark.parametrize(("status", "expected"), [("running", "killed"), ("done", "done"), ("failed", "failed")])
def test_reap_dead_runs_records_and_mirrors(tmp_path: Path, status: str, expected: str) -> None:
    folder = write_dead_run(tmp_path, "a", status=status)
    mirrored = []
    answers = iter([False, True])  # MLflow is down at first

    def mirror(folder: Path, record: Record) -> bool:
        mirrored.append((folder, record.status))
        return next(answers)

    for _ in range(3):
        run_lock.reap_dead_runs(tmp_path, mirror)
        assert read_record(folder).status == expected
    assert mirrored == [(folder, expected)] * 2


def test_reap_dead_runs_keeps_running_runs(tmp_path: Path) -> None:
    folder = write_dead_run(tmp_path, "a")
    with run_lock.hold(tmp_path, "a"):
        run_lock.reap_dead_runs(tmp_path)
        assert read_record(folder).status == "running"


def test_reap_dead_runs_skips_broken_records(tmp_path: Path) -> None:
    folder = write_dead_run(tmp_path, "a")
    (folder / "record.json").write_text("{")
    run_lock.reap_dead_runs(tmp_path)
    assert list((tmp_path / ".live").iterdir()) == []


def test_reap_dead_runs_records_the_reason(tmp_path: Path) -> None:
    folder = write_dead_run(tmp_path, "a")
    run_lock.reap_dead_runs(tmp_path)
    record = read_record(folder)
    assert record.reason == "its process was killed"
    assert record.ended is not None


@pytest.mark.parametrize("kind", SPECIAL_FILES)
def test_reap_dead_runs_passes_over_what_is_no_lock(tmp_path: Path, kind: str) -> None:
    folder = write_dead_run(tmp_path, "a")
    SPECIAL_FILES[kind](tmp_path / ".live" / "0.lock")
    with deadline():
        run_lock.reap_dead_runs(tmp_path)
        assert not run_lock.is_alive(tmp_path, "0")
    assert read_record(folder).status == "killed"


def test_reap_dead_runs_stays_out_of_a_linked_folder(tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    (others / "theirs.lock").write_text("")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".live").symlink_to(others)
    run_lock.reap_dead_runs(tmp_path / "runs")
    assert [path.name for path in others.iterdir()] == ["theirs.lock"]
