"""Mirroring through a separate process."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lightexp.core.record import Record
from lightexp.tracking import stores
from lightexp.tracking.process import MirrorProcess
from lightexp.tracking.remote_mirror import RemoteMirror

NODE = {"_target_": "lightexp.tracking.mlflow.Mlflow", "uri": None, "experiment": "lightexp"}


@pytest.fixture
def write_record(make_record, run_folder) -> Callable[..., Record]:
    """Write a record into the run's folder."""

    def write(**tracking) -> Record:
        record = make_record()
        record.config |= {"tracking": {**NODE, **tracking}, "plugins": []}
        record.write(run_folder)
        return record

    return write


def test_sync_reaches_mlflow_and_ends_its_process(tmp_path, write_record, messages, run_folder):
    process = MirrorProcess()
    pid = process.pid
    record = write_record()
    mirror = RemoteMirror(messages.append, process)
    assert mirror.sync(run_folder, record)
    assert record.mlflow["uri"] == stores.resolve_uri(None, tmp_path)
    client = stores.import_mlflow().MlflowClient(tracking_uri=record.mlflow["uri"])
    assert client.get_run(record.mlflow["run_id"]).info.status == "RUNNING"
    record.status, record.ended = "done", time.time()
    record.write(run_folder)
    assert not mirror.sync(run_folder, record)  # the record says already where it is
    assert client.get_run(record.mlflow["run_id"]).info.status == "FINISHED"
    assert messages == []
    del mirror, process
    gc.collect()
    assert not Path(f"/proc/{pid}").exists()


def test_sync_reports_a_killed_process_once(write_record, messages, run_folder):
    process = MirrorProcess()
    mirror = RemoteMirror(messages.append, process)
    os.kill(process.pid, signal.SIGKILL)
    record = write_record()
    assert mirror.sync(run_folder, record)
    assert not mirror.sync(run_folder, record)
    assert len(messages) == 1
    assert "The run goes on" in messages[0]
    assert "missing" in record.mlflow


def test_sync_passes_on_what_the_mirror_says(write_record, messages, run_folder):
    record = write_record(uri="http://127.0.0.1:9")
    RemoteMirror(messages.append).sync(run_folder, record)
    assert len(messages) == 1
    assert "cannot be used" in messages[0]


def test_sync_notes_an_unreadable_record(write_record, messages, run_folder):
    record = write_record()
    (run_folder / "record.json").write_text("{}")
    RemoteMirror(messages.append).sync(run_folder, record)
    assert "record.json" in record.mlflow["missing"]


def test_sync_needs_no_process_without_tracking(make_record, messages, run_folder):
    process = MirrorProcess()
    process.kill()
    record = make_record()
    record.config |= {"tracking": {"_target_": "lightexp.tracking.mirror.NoTracking"}, "plugins": []}
    assert RemoteMirror(messages.append, process).sync(run_folder, record)
    assert record.mlflow == {"missing": "tracking=none"}
    assert messages == []
