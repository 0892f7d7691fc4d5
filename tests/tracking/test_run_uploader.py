"""Synchronizing one run folder with MLflow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lightexp.core.metrics import Metric, Note
from lightexp.core.record import RECORD_FILE, read_record
from lightexp.tracking.mlflow import Mlflow
from tests.tracking.helpers import ROOT, connect, list_history


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, copy_database):
    outputs = tmp_path_factory.mktemp("plain") / "outputs"
    copy_database(outputs)
    return outputs


@pytest.fixture
def mirror(outputs, messages):
    return Mlflow().open_mirror(outputs, messages.append)


@pytest.fixture
def finished(mirror, make_record, messages, sync):
    record = make_record()
    assert sync(mirror, record)
    record.status, record.ended = "done", record.started + 60
    assert sync(mirror, record)
    assert messages == []
    assert "missing" not in record.mlflow
    return record


def test_sync_shows_a_started_run_as_running(mirror, make_record, sync):
    record = make_record()
    sync(mirror, record)
    run = connect(record).get_run(record.mlflow["run_id"])
    assert run.info.status == "RUNNING"
    assert run.info.run_name == f"{record.name} · seed 3"
    assert run.info.start_time == 1_700_000_000_250
    assert run.data.tags["lightexp.status"] == "running"
    assert run.data.params == {
        "seed": "3",
        "pipeline.order": '["train", "prune"]',
        "pipeline.stages.prune.sparsity": "0.5",
    }


def test_run_deleted_while_it_runs_stays_deleted(mirror, make_record, messages, sync):
    record = make_record()
    sync(mirror, record)
    client = connect(record)
    client.delete_run(record.mlflow["run_id"])
    record.status = "done"
    sync(mirror, record)
    run = client.get_run(record.mlflow["run_id"])
    assert (run.info.lifecycle_stage, run.info.status) == ("deleted", "RUNNING")
    assert messages == []


def test_sync_logs_status_and_tags_of_a_finished_run(finished):
    run = connect(finished).get_run(finished.mlflow["run_id"])
    tags = run.data.tags
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 60_000
    assert tags["lightexp.status"] == "done"
    assert tags["lightexp.run_id"] == finished.id
    assert tags["lightexp.command"] == finished.command
    assert tags["lightexp.seed"] == "3"
    assert tags["mlflow.source.git.commit"] == "c0ffee"
    assert tags["mlflow.source.git.dirty"] == "true"
    assert tags["vary/pipeline.stages.prune.sparsity"] == "0.5"
    assert tags["vary/extra.word"] == "a=b"
    removed = [name for name, value in tags.items() if value == "removed"]
    assert len(removed) == 1
    assert removed[0].startswith("vary/stage_pipeline.stages.quantize")


def test_sync_logs_metrics_and_curves(finished):
    client, run_id = connect(finished), finished.mlflow["run_id"]
    metrics = client.get_run(run_id).data.metrics
    curves = {f"train/{stage}/loss" for stage in ("train", "prune", "quantize")}
    assert set(metrics) - curves == {"accuracy/val", "accuracy/test", "size/file_bytes", "size/ratio"}
    assert metrics["size/file_bytes"] == 28_240
    assert list_history(client, run_id, "train/prune/loss") == [(1, 0.5), (3, 0.25)]


def test_sync_logs_all_metrics_if_asked(finished, outputs, messages, sync):
    client, run_id = connect(finished), finished.mlflow["run_id"]
    mirror = Mlflow(metrics="all").open_mirror(outputs, messages.append)
    assert sync(mirror, finished)
    metrics = client.get_run(run_id).data.metrics
    assert metrics["accuracy/val"] == metrics["stage/quantize/accuracy/val"] == 0.96
    assert metrics["stage/train/size/file_bytes"] == 112_960
    assert list_history(client, run_id, "train/prune/sparsity") == [(1, 0.0), (3, 0.8)]
    assert "loss/test" not in metrics
    assert not sync(mirror, finished)
    assert messages == []


def test_sync_describes_a_finished_run_by_its_table(finished, mirror, sync):
    client, run_id = connect(finished), finished.mlflow["run_id"]
    note = client.get_run(run_id).data.tags["mlflow.note.content"]
    assert "| quantize | 96.00% | 95.00% | 28,240 | 4.0x |\n\nAll metrics and curves: metrics.json." in note
    client.set_tag(run_id, "mlflow.note.content", "mine")
    assert not sync(mirror, finished)
    assert client.get_run(run_id).data.tags["mlflow.note.content"] == "mine"


def test_sync_logs_dataset_inputs(finished):
    inputs = connect(finished).get_run(finished.mlflow["run_id"]).inputs.dataset_inputs
    by_split = {dataset_input.tags[0].value: dataset_input for dataset_input in inputs}
    assert {dataset_input.tags[0].key for dataset_input in inputs} == {"mlflow.data.context"}
    assert set(by_split) == {"train", "val", "test"}
    assert by_split["val"].dataset.name == "digits"
    assert by_split["val"].dataset.digest == "l" * 36
    assert '"num_rows": 20' in by_split["val"].dataset.profile


def test_sync_uploads_files_that_can_be_read_back(finished, outputs, tmp_path):
    client, run_id = connect(finished), finished.mlflow["run_id"]
    (tmp_path / "download").mkdir()
    downloaded = Path(client.download_artifacts(run_id, "", str(tmp_path / "download")))
    names = {path.relative_to(downloaded).as_posix() for path in downloaded.rglob("*") if path.is_file()}
    assert names == {"record.json", "metrics.json", "config.yaml", "model.tflite", "stages/prune/model.tflite"}
    metrics = json.loads((downloaded / "metrics.json").read_text())
    assert metrics["stage/train/size/file_bytes"] == 112_960
    assert metrics["train/prune/sparsity"] == [[1, 0.0], [3, 0.8]]
    assert (downloaded / "stages/prune/model.tflite").read_bytes() == b"stages/prune/model.tflite"
    assert read_record(downloaded).mlflow == finished.mlflow
    assert finished.mlflow["run_id"] in (downloaded / "record.json").read_text()
    assert client.get_run(run_id).info.artifact_uri.startswith((outputs / "mlartifacts").as_uri())


def test_second_sync_changes_nothing(finished, outputs, messages, sync, run_folder):
    client, run_id = connect(finished), finished.mlflow["run_id"]
    before = client.get_run(run_id).to_dictionary(), list_history(client, run_id, "train/prune/loss")
    place = dict(finished.mlflow)
    assert not sync(Mlflow().open_mirror(outputs, messages.append), finished)
    after = client.get_run(run_id).to_dictionary(), list_history(client, run_id, "train/prune/loss")
    assert after == before
    assert finished.mlflow == place
    assert messages == []


def test_sync_finds_a_run_whose_record_does_not_say_where(finished, mirror, sync):
    run_id = finished.mlflow["run_id"]
    finished.mlflow = {}
    sync(mirror, finished)
    assert finished.mlflow["run_id"] == run_id


def test_sync_shows_a_metric_that_was_measured_again(finished, outputs, messages, sync):
    def measure(value):
        finished.stages[-1].replace([Metric("phone/Pixel_6/gpu_us", value), Note("phone/Pixel_6/gpu_us", "in part")])
        assert sync(Mlflow().open_mirror(outputs, messages.append), finished)
        assert not sync(Mlflow().open_mirror(outputs, messages.append), finished)
        run = connect(finished).get_run(finished.mlflow["run_id"])
        return run.data.metrics["phone/Pixel_6/gpu_us"], run.data.tags["note/phone/Pixel_6/gpu_us"]

    assert [measure(value) for value in (12.5, 99.5, 10.5)] == [(12.5, "in part"), (99.5, "in part"), (10.5, "in part")]
    folder = connect(finished).download_artifacts(finished.mlflow["run_id"], "record.json")
    assert '"value": 10.5' in Path(folder).read_text()  # though it has the size of the one before
    assert messages == []


def test_sync_adds_metrics_that_were_measured_later(finished, mirror, sync, run_folder):
    client, run_id = connect(finished), finished.mlflow["run_id"]
    finished.stages[-1].metrics.append(type(finished.stages[-1].metrics[0])("latency/p50_us", 12.5))
    (run_folder / "tradeoff.svg").write_text("drawn again")
    assert sync(mirror, finished)
    metrics = client.get_run(run_id).data.metrics
    assert metrics["latency/p50_us"] == 12.5
    assert len(client.get_metric_history(run_id, "accuracy/val")) == 1
    assert "tradeoff.svg" in {file.path for file in client.list_artifacts(run_id)}


@pytest.mark.parametrize(("status", "shown"), [("failed", "FAILED"), ("interrupted", "KILLED"), ("killed", "KILLED")])
def test_sync_shows_how_a_run_ended_badly(mirror, make_record, messages, sync, status, shown):
    record = make_record(stages=[], dataset={}, control=None)
    sync(mirror, record)
    record.status, record.reason, record.ended = status, "the loss became NaN", record.started + 1
    sync(mirror, record)
    run = connect(record).get_run(record.mlflow["run_id"])
    assert messages == []
    assert run.info.status == shown
    assert run.data.tags["lightexp.status"] == status
    assert run.data.tags["lightexp.reason"] == "the loss became NaN"


def test_sync_shows_a_run_that_was_never_shown_running(mirror, make_record, sync):
    record = make_record(status="done", ended=1_700_000_100.0, mlflow={"missing": "it was down"})
    sync(mirror, record)
    run = connect(record).get_run(record.mlflow["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "3"
    assert "missing" not in record.mlflow


def test_sync_makes_awkward_configs_acceptable(mirror, make_record, messages, sync):
    config = {f"k{n}": "é" * 6000 for n in range(250)} | {"a+b": 1, "a=b": 2, "": 3, "x": {"..": 4, "y\n": "\0"}}
    varied = ["a[0].b={c: 1}", "a(0).b=2", "=", "x" * 400 + "=1"]
    record = make_record(config=config, name="näme <&> '\"", varied=varied)
    sync(mirror, record)
    assert messages == []
    run = connect(record).get_run(record.mlflow["run_id"])
    assert len(run.data.params) == 255
    assert run.info.run_name == record.name  # there is no seed
    assert len([tag for tag in run.data.tags if tag.startswith("vary/")]) == 3


def test_sync_logs_more_metrics_than_fit_a_batch(mirror, make_record, messages, sync):
    record = make_record(status="done")
    record.stages[0].facts["history"] = {"loss": [n / 7 for n in range(2500)]}
    sync(mirror, record)
    history = list_history(connect(record), record.mlflow["run_id"], "train/train/loss")
    assert messages == []
    assert history[-1] == (2500, 2499 / 7)
    assert len(history) == 2500


def test_sync_closes_a_killed_run(outputs, make_record, messages, sync, run_folder):
    script = """
        import os, signal, sys
        from pathlib import Path
        from lightexp.core.record import Record
        from lightexp.tracking.mlflow import Mlflow
        folder = Path(sys.argv[2])
        config = {"tracking": {"_target_": "lightexp.tracking.mlflow.Mlflow"}}
        record = Record(folder.name, "name", "lightexp run", config, [], {}, 1.7e9)
        record.write(folder)
        Mlflow().open_mirror(Path(sys.argv[1]), print).sync(folder).note_in(record)
        record.write(folder)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(outputs), str(run_folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, check=False, timeout=60, env=environment).returncode == -signal.SIGKILL
    record = read_record(run_folder)
    client = connect(record)
    assert client.get_run(record.mlflow["run_id"]).info.status == "RUNNING"
    record.status = "killed"
    mirror = Mlflow().open_mirror(outputs, messages.append)
    assert sync(mirror, record, create=False)
    run = client.get_run(record.mlflow["run_id"])
    assert run.info.status == "KILLED"
    assert run.data.tags["lightexp.status"] == "killed"
    assert messages == []
    assert not sync(mirror, record, create=False)
    assert messages == []
    assert client.get_run(record.mlflow["run_id"]).info.end_time == run.info.end_time


def test_sync_closes_a_run_whose_record_does_not_say_where(mirror, make_record, messages, run_folder):
    tracking = {"_target_": "lightexp.tracking.mlflow.Mlflow", "uri": mirror.uri}
    record = make_record(id=run_folder.name, config={"tracking": tracking})
    record.write(run_folder)
    run_id = mirror.sync(run_folder).place["run_id"]  # the process is killed before it notes this
    record.status = "killed"
    record.write(run_folder)
    assert mirror.sync(run_folder, create=False).place["run_id"] == run_id
    record.mlflow = {"uri": mirror.uri, "experiment": "lightexp"}
    assert connect(record).get_run(run_id).info.status == "KILLED"
    assert messages == []


def test_sync_without_create_shows_no_new_run(mirror, make_record, messages, sync):
    record = make_record(status="killed")
    assert not sync(mirror, record, create=False)
    assert record.mlflow == {}
    assert messages == []
    assert not sync(mirror, make_record(status="done"), create=False)


def test_sync_without_create_leaves_a_finished_run_alone(finished, mirror, sync):
    assert not sync(mirror, finished, create=False)
    assert connect(finished).get_run(finished.mlflow["run_id"]).info.status == "FINISHED"


def test_sync_without_create_makes_no_store(tmp_path, make_record, messages, sync, run_folder):
    uri = f"sqlite:///{tmp_path}/gone.db"
    place = {"uri": uri, "experiment": "lightexp", "run_id": "0" * 32}
    record = make_record(status="killed", mlflow=dict(place))
    before = {path for path in tmp_path.rglob("*") if path.name != RECORD_FILE}
    assert not sync(Mlflow(uri).open_mirror(tmp_path, messages.append), record, create=False)
    assert {path for path in tmp_path.rglob("*") if path.name != RECORD_FILE} == before
    assert record.mlflow == place
    assert messages == []


def test_sync_uploads_to_a_real_server(server, make_record, messages, sync, run_folder, capfd):
    record = make_record()
    mirror = Mlflow(uri=server, experiment="on a server").open_mirror(run_folder / "unused", messages.append)
    sync(mirror, record)
    client, run_id = connect(record), record.mlflow["run_id"]
    assert client.get_run(run_id).info.status == "RUNNING"
    record.status, record.ended = "done", record.started + 5
    sync(mirror, record)
    assert messages == []
    assert capfd.readouterr() == ("", "")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "3"
    assert run.data.metrics["accuracy/val"] == 0.96
    assert {entry.dataset.digest for entry in run.inputs.dataset_inputs} == {"n" * 36, "l" * 36, "t" * 36}
    names = {file.path for file in client.list_artifacts(run_id)}
    assert names == {"record.json", "metrics.json", "config.yaml", "model.tflite", "stages"}
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert not (run_folder / "unused").exists()
    assert not sync(mirror, record)
