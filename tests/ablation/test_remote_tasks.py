"""Tasks of an ablation for hosts that share a remote store alone: each a folder of its own and a `file://` store."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightexp.ablation.remote_tasks import RemoteTasks
from lightexp.ablation.run import connect_launcher
from lightexp.ablation.runs import RunIndex
from lightexp.ablation.task_source import AblationOrder, AblationSource
from lightexp.ablation.tasks import AblationTask
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.folder_storage import FolderStorage
from lightexp.core.json_text import encode_json
from lightexp.core.record import Record, read_record

pytest.importorskip("fsspec")

STAGE = AblationTask("stage", "a" * 64, "shared", [])
ROW = AblationTask("run", "b" * 64, "row", [], needs=[STAGE.id], identity=encode_json([0, [], "m", []]), row="row")
OTHER = AblationTask("run", "c" * 64, "other", [], identity=encode_json([1, [], "m", []]), row="other")


def make_source(tmp_path: Path, host: str, index: RunIndex | None = None) -> AblationSource:
    tasks = [asdict(task) for task in (STAGE, ROW, OTHER)]
    order = AblationOrder(tasks, str(tmp_path / host), "/elsewhere/call-1", f"file://{tmp_path / 'remote'}")
    return AblationSource(order, lambda task: {}, index)


def write_record(tmp_path: Path, host: str) -> None:
    """Write the record of a run of `ROW`, as a worker on a host does."""
    folder = tmp_path / host / "runs" / "row-1"
    folder.mkdir(parents=True)
    config = {"seed": 0, "pipeline": {"stages": {}}, "dataset": {}, "model": {}}
    record = Record("row-1", "row", "lightexp run", config, [], {}, started=1.0, ended=2.0, status="done")
    record.tags = {"ablation": "x", "row": "row", "measured": "m"}
    record.files = {"model": "model.tflite"}
    record.write(folder)


def test_hosts_share_tasks_and_the_command_gets_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightexp.ablation.remote_tasks._POLL_S", 0.0)
    one, two = make_source(tmp_path, "one"), make_source(tmp_path, "two")
    command = make_source(tmp_path, "command", RunIndex(tmp_path / "command"))
    first, second = one.claim(), two.claim()
    assert first and second
    assert (first.id, second.id) == (STAGE.id, OTHER.id)  # the row waits for its stage
    assert two.claim() is None
    one.finish(first, {})
    two.fail(OTHER.id, "it broke")
    third = two.claim()
    assert third and third.id == ROW.id
    write_record(tmp_path, "two")
    two.finish(third, {})
    assert one.claim() is None
    assert one.status().ended == command.status().ended == 3
    assert command.read_failures() == {OTHER.id: "it broke"}
    fetched = read_record(tmp_path / "command" / "runs" / "row-1")
    assert (fetched.tags["row"], fetched.files) == ("row", {})
    assert command.find_metrics(ROW) == {}
    command.clear()
    assert not [path for path in (tmp_path / "remote" / "calls").rglob("*") if path.is_file()]


def test_command_sees_a_task_that_ended_after_its_last_look(tmp_path: Path) -> None:
    worker, command = make_source(tmp_path, "one"), make_source(tmp_path, "command", RunIndex(tmp_path / "command"))
    stage = worker.claim()
    assert stage
    worker.finish(stage, {})
    row = worker.claim()
    assert row
    assert command.status().unclaimed == 2
    write_record(tmp_path, "one")
    worker.finish(row, {})
    command.refresh()
    assert command.find_metrics(ROW) is None
    command.refresh(at_once=True)
    assert command.find_metrics(ROW) is not None


def test_clear_leaves_what_may_not_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    tasks = RemoteTasks(f"file://{tmp_path}", "call")
    tasks.report_done("task", None)
    with monkeypatch.context() as patch:
        patch.setattr(FolderStorage, "rm_file", refuse)
        tasks.clear()
    assert len(list(tmp_path.rglob("task.json"))) == 1
    tasks.clear()
    assert not list(tmp_path.rglob("task.json"))


def test_task_of_a_dead_worker_is_acquired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightexp.ablation.remote_tasks._POLL_S", 0.0)
    dead, living = (RemoteTasks(f"file://{tmp_path}", "call", expiry_s) for expiry_s in (3600.0, 0.2))
    assert dead.acquire("task")
    assert not living.acquire("task")  # it has just seen the lease
    time.sleep(0.3)
    assert living.acquire("task")


def test_storage_that_does_not_answer_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tasks, place = RemoteTasks(f"file://{tmp_path / 'store'}", "call"), tmp_path / "store"
    place.write_text("this is no folder")
    with ThreadPoolExecutor(1) as executor:
        call = executor.submit(tasks.report_failure, "task", "it broke")
        time.sleep(0.2)
        assert not call.done()
        place.unlink()
        call.result(30)
    assert [line.partition(" (")[0] for line in caplog.messages] == [
        f"The remote store file://{place} has gone away",
        f"The remote store file://{place} is back.",
    ]


def test_object_of_a_proxy_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tasks = RemoteTasks(f"file://{tmp_path}", "call")
    tasks.report_done("task", None)
    (place,) = tmp_path.rglob("task.json")
    content = place.read_bytes()
    place.write_text("<html>Please log in")
    with ThreadPoolExecutor(1) as executor:
        call = executor.submit(tasks.read_record, "task")
        time.sleep(0.2)
        assert not call.done()
        place.write_bytes(content)
        assert call.result(30) is None
    assert "calls/call/done/task.json is not lightexp's" in caplog.messages[0]


@pytest.mark.parametrize("run_id", ["..", "../x", "a/b", ""])
def test_record_whose_id_is_a_path_is_refused(tmp_path: Path, run_id: str) -> None:
    write_record(tmp_path, "one")
    record = read_record(tmp_path / "one/runs/row-1")
    tasks = RemoteTasks(f"file://{tmp_path / 'remote'}", "call")
    tasks.report_done("task", replace(record, id=run_id))
    with pytest.raises(RunFailed, match=r"calls/call/done/task\.json is not a record: its id is"):
        tasks.read_record("task")


def test_nodes_that_do_not_see_the_outputs_are_refused(tmp_path: Path) -> None:
    shared, remote = (SimpleNamespace(connect=lambda _: ["10.0.0.2"], shares_folder=is_shared) for is_shared in (1, 0))
    connect_launcher(remote, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"^Ray's nodes 10.0.0.2 do not see .* Set store.remote=s3://BUCKET/PREFIX, or"):
        connect_launcher(shared, tmp_path)  # type: ignore[arg-type]
