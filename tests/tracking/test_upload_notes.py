"""Notes of the state in which runs were uploaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lightexp.core.record import Record, read_run
from lightexp.tracking.mlflow import Mlflow
from lightexp.tracking.upload_notes import NOTES_FOLDER, UploadNotes
from tests.tracking.helpers import connect

PLACE = ["sqlite:///x", "lightexp", ["1", 1_700_000_000_000], "main", True]


@pytest.fixture
def record(make_record: Callable[..., Record], run_folder: Path) -> Record:
    record = make_record(id=run_folder.name, status="done", mlflow={"run_id": "1"})
    record.write(run_folder)
    return record


def test_note_is_valid_for_its_state_and_place_alone(record: Record, run_folder: Path) -> None:
    notes = UploadNotes(run_folder.parent)
    assert not notes.has(run_folder, record, PLACE)
    notes.add(run_folder, record, PLACE)
    notes.add(run_folder, record, ["http://there", *PLACE[1:]])
    assert notes.has(run_folder, record, PLACE)
    record.write(run_folder)
    assert UploadNotes(run_folder.parent).has(run_folder, record, PLACE)
    for index, other in enumerate(["sqlite:///y", "other", ["1", 1_800_000_000_000], "all", False]):
        assert not notes.has(run_folder, record, [*PLACE[:index], other, *PLACE[index + 1 :]])
    for place in ({}, {"run_id": "1", "missing": "disk full"}):
        record.mlflow = place
        assert not notes.has(run_folder, record, PLACE)


def test_note_ends_with_any_change_of_the_run(record: Record, run_folder: Path) -> None:
    notes = UploadNotes(run_folder.parent)

    def is_noted_after(change: Callable[[], object]) -> bool:
        notes.add(run_folder, record, PLACE)
        assert notes.has(run_folder, record, PLACE)
        change()
        return notes.has(run_folder, record, PLACE)

    model = run_folder / "model.tflite"
    assert not is_noted_after(lambda: record.tags.update(row="a"))
    assert not is_noted_after(lambda: os.utime(model, (1, 1)))
    assert not is_noted_after(lambda: model.write_bytes(b"other"))
    assert not is_noted_after(lambda: (run_folder / "new.svg").write_text("new"))
    assert not is_noted_after(model.unlink)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_damaged_note_counts_as_none(content: bytes, record: Record, run_folder: Path) -> None:
    notes = UploadNotes(run_folder.parent)
    notes.add(run_folder, record, PLACE)
    file = run_folder.parent / NOTES_FOLDER / f"{record.id}.json"
    file.write_bytes(content)
    assert not notes.has(run_folder, record, PLACE)
    notes.add(run_folder, record, PLACE)
    assert notes.has(run_folder, record, PLACE)


def test_note_that_cannot_be_written_stops_nothing(record: Record, run_folder: Path) -> None:
    (run_folder.parent / NOTES_FOLDER).write_text("a file")
    notes = UploadNotes(run_folder.parent)
    notes.add(run_folder, record, PLACE)
    assert not notes.has(run_folder, record, PLACE)


def test_notes_stay_out_of_a_linked_folder(record: Record, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.json").write_text("mine")
    (run_folder.parent / NOTES_FOLDER).symlink_to(tmp_path / "other")
    notes = UploadNotes(run_folder.parent)
    notes.remove_orphans()
    notes.add(run_folder, record, PLACE)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["mine.json"]
    assert not notes.has(run_folder, record, PLACE)


def test_orphan_that_cannot_be_removed_stops_nothing(run_folder: Path) -> None:
    (run_folder.parent / NOTES_FOLDER / "removed.json").mkdir(parents=True)
    UploadNotes(run_folder.parent).remove_orphans()


def test_notes_go_with_their_runs(record: Record, run_folder: Path) -> None:
    notes = UploadNotes(run_folder.parent)
    notes.remove_orphans()  # there are none yet
    removed = run_folder.parent / "removed"
    shutil.copytree(run_folder, removed)
    notes.add(run_folder, record, PLACE)
    notes.add(removed, replace(record, id="removed"), PLACE)
    shutil.rmtree(removed)
    odd = run_folder.parent / NOTES_FOLDER / "odd.json"
    odd.mkdir()  # no note, and no file
    notes.remove_orphans()
    odd.rmdir()
    assert [path.stem for path in (run_folder.parent / NOTES_FOLDER).iterdir()] == [record.id]
    assert notes.has(run_folder, record, PLACE)


def test_mirror_notes_a_run_that_has_ended(
    tmp_path: Path,
    copy_database: Callable[[Path], None],
    record: Record,
    messages: list[str],
    sync: Callable[..., bool],
    run_folder: Path,
) -> None:
    def is_noted(settings: Mlflow) -> bool:
        record.write(run_folder)
        return settings.open_mirror(tmp_path, messages.append).has_noted(run_folder, read_run(run_folder))

    copy_database(tmp_path)
    record.status, record.mlflow = "running", {}
    noted = []
    mirror = Mlflow().open_mirror(tmp_path, messages.append)
    for status in ("running", "done"):
        record.status = status  # type: ignore[assignment]
        sync(mirror, record)
        noted.append(is_noted(Mlflow()))
    assert noted == [False, True]
    for other in (Mlflow(metrics="all"), Mlflow(model=False), Mlflow(experiment="other")):
        assert not is_noted(other)
    connect(record).delete_run(record.mlflow["run_id"])
    record.tags["row"] = "changed"
    sync(mirror, record)
    assert not is_noted(Mlflow())  # it may be restored from MLflow's bin
    assert messages == []
