"""Mirroring through a separate process."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path

import pytest

from lightexp.core.record import Record
from lightexp.tracking import stores
from lightexp.tracking.mirror import MirrorSettings
from lightexp.tracking.process import MirrorProcess
from lightexp.tracking.remote_mirror import RemoteMirror

pytestmark = pytest.mark.usefixtures("warm_workers")
NODE = {"_target_": "lightexp.tracking.mlflow.Mlflow", "uri": None, "experiment": "lightexp"}


@pytest.fixture
def record(make_record, run_folder) -> Record:
    """A record that is in the run's folder."""
    record = make_record(id=run_folder.name)
    record.write(run_folder)
    return record


@pytest.fixture
def settings(tmp_path, copy_database) -> MirrorSettings:
    """The mirror that a command with the default settings asks for."""
    copy_database(tmp_path)
    return MirrorSettings(dict(NODE), [], str(tmp_path))


def test_sync_reaches_mlflow_and_ends_its_process(tmp_path, record, settings, messages, run_folder):
    process = MirrorProcess()
    pid = process.pid
    mirror = RemoteMirror(messages.append, process)
    assert mirror.sync(run_folder, record, settings).changed
    assert record.mlflow["uri"] == stores.resolve_uri(None, tmp_path)
    client = stores.import_mlflow().MlflowClient(tracking_uri=record.mlflow["uri"])
    assert client.get_run(record.mlflow["run_id"]).info.status == "RUNNING"
    record.status, record.ended = "done", time.time()
    record.write(run_folder)
    assert not mirror.sync(run_folder, record, settings).changed  # the record says already where it is
    assert client.get_run(record.mlflow["run_id"]).info.status == "FINISHED"
    assert messages == []
    del mirror, process
    gc.collect()
    assert not Path(f"/proc/{pid}").exists()


def test_mirror_process_closes_what_its_parent_left_running(record, settings, messages, run_folder):
    process = MirrorProcess()
    RemoteMirror(messages.append, process).sync(run_folder, record, settings)
    assert process.close(60) == 0
    client = stores.import_mlflow().MlflowClient(tracking_uri=record.mlflow["uri"])
    assert client.get_run(record.mlflow["run_id"]).info.status == "KILLED"


def test_dead_runs_stay_where_their_records_name_another_server(record, settings, messages, run_folder):
    record.config["tracking"] = {**NODE, "uri": "http://127.0.0.1:9"}
    record.write(run_folder)
    mirror = RemoteMirror(messages.append)
    for node in (settings.tracking, {"_target_": "lightexp.tracking.mirror.NoTracking"}):
        tracking = MirrorSettings(node, [], settings.outputs)
        assert mirror.sync(run_folder, record, tracking, create=False).place["missing"]
    record.config["tracking"] = {"_target_": "lightexp.tracking.mirror.NoTracking"}
    assert mirror.sync(run_folder, record, tracking, create=False).place == {}
    assert messages == []


def test_sync_reports_a_killed_process_once(record, settings, messages, run_folder):
    process = MirrorProcess()
    mirror = RemoteMirror(messages.append, process)
    os.kill(process.pid, signal.SIGKILL)
    assert mirror.sync(run_folder, record, settings).changed
    assert not mirror.sync(run_folder, record, settings).changed
    assert len(messages) == 1
    assert "The run goes on" in messages[0]
    assert "missing" in record.mlflow


def test_sync_passes_on_what_the_mirror_says(record, settings, messages, run_folder):
    settings.tracking["uri"] = "http://127.0.0.1:9"
    RemoteMirror(messages.append).sync(run_folder, record, settings)
    assert len(messages) == 1
    assert "cannot be used" in messages[0]


def test_sync_notes_an_unreadable_record(record, settings, messages, run_folder):
    (run_folder / "record.json").write_text("{}")
    RemoteMirror(messages.append).sync(run_folder, record, settings)
    assert "record.json" in record.mlflow["missing"]


def test_sync_needs_no_process_without_tracking(record, messages, run_folder, tmp_path):
    process = MirrorProcess()
    process.kill()
    settings = MirrorSettings({"_target_": "lightexp.tracking.mirror.NoTracking"}, [], str(tmp_path))
    assert RemoteMirror(messages.append, process).sync(run_folder, record, settings).changed
    assert record.mlflow == {"missing": "tracking=none"}
    assert messages == []
