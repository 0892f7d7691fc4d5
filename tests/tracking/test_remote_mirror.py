"""The mirror in a process of its own."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path

from lightexp.tracking import stores
from lightexp.tracking.process import MirrorProcess
from lightexp.tracking.remote_mirror import RemoteMirror

NODE = {"_target_": "lightexp.tracking.mlflow.Mlflow", "uri": None, "experiment": "lightexp"}


def test_a_record_reaches_mlflow_and_the_process_ends_with_its_owner(tmp_path, make_record, said):
    worker = MirrorProcess()
    pid = worker.pid
    record, folder = make_record(), tmp_path / "run"
    folder.mkdir()
    (folder / "record.json").write_text("{}")
    mirror = RemoteMirror(worker, NODE, [], tmp_path, said.append)
    mirror.start(record)
    client = stores.import_mlflow().MlflowClient(tracking_uri=record.mlflow["uri"])
    assert client.get_run(record.mlflow["run_id"]).info.status == "RUNNING"
    record.status, record.ended = "done", time.time()
    mirror.end(record, folder)
    assert client.get_run(record.mlflow["run_id"]).info.status == "FINISHED"
    assert said == []
    del mirror, worker
    gc.collect()
    assert not Path(f"/proc/{pid}").exists()


def test_a_killed_process_is_told_once_and_stops_nothing(tmp_path, make_record, said):
    worker = MirrorProcess()
    mirror = RemoteMirror(worker, NODE, [], tmp_path, said.append)
    os.kill(worker.pid, signal.SIGKILL)
    record = make_record()
    mirror.start(record)
    mirror.end(record, tmp_path)
    assert len(said) == 1
    assert "The run goes on" in said[0]
    assert "missing" in record.mlflow


def test_what_the_mirror_says_comes_back(tmp_path, make_record, said):
    mirror = RemoteMirror(MirrorProcess(), {**NODE, "uri": "http://127.0.0.1:9"}, [], tmp_path, said.append)
    mirror.start(make_record())
    assert len(said) == 1
    assert "cannot be used" in said[0]


def test_no_mirror_is_asked_for(tmp_path, make_record, said):
    record = make_record()
    RemoteMirror(MirrorProcess(), {"_target_": "lightexp.tracking.mirror.NoTracking"}, [], tmp_path, said.append).start(
        record
    )
    assert record.mlflow == {"missing": "tracking=none"}
    assert said == []
