from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from lightexp.core.config import build, locate
from lightexp.core.errors import BadInput
from lightexp.core.record import read_record
from lightexp.tracking import stores
from lightexp.tracking.mirror import NoTracking, Tracking
from lightexp.tracking.mlflow import Mlflow
from lightexp.tracking.study_payload import NUMBER, PARENT, StudyPayload, TrialPayload

ROOT = Path(__file__).parents[2]


def client_of(record):
    return stores.import_mlflow().MlflowClient(tracking_uri=record.mlflow["uri"])


def steps(client, run_id, name):
    return [(m.step, m.value) for m in client.get_metric_history(run_id, name)]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("plain") / "outputs"


@pytest.fixture
def finished(outputs, make_record, said, run_folder):
    record = make_record()
    mirror = Mlflow().mirror(outputs, said.append)
    mirror.start(record)
    record.status, record.ended = "done", record.started + 60
    record.write(run_folder)
    mirror.end(record, run_folder)
    assert said == []
    assert "missing" not in record.mlflow
    return record


def test_a_started_run_is_shown_as_running(outputs, make_record, said):
    record = make_record()
    Mlflow().mirror(outputs, said.append).start(record)
    run = client_of(record).get_run(record.mlflow["run_id"])
    assert run.info.status == "RUNNING"
    assert run.info.run_name == record.name
    assert run.info.start_time == 1_700_000_000_250
    assert run.data.tags["lightexp.status"] == "running"
    assert run.data.params == {
        "seed": "3",
        "pipeline.order": '["train", "prune"]',
        "pipeline.stages.prune.sparsity": "0.5",
    }


def test_status_and_tags_of_a_finished_run(finished):
    run = client_of(finished).get_run(finished.mlflow["run_id"])
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
    removed = [k for k, v in tags.items() if v == "removed"]
    assert len(removed) == 1
    assert removed[0].startswith("vary/stage_pipeline.stages.quantize")


def test_figures_and_curves(finished):
    client, run_id = client_of(finished), finished.mlflow["run_id"]
    metrics = client.get_run(run_id).data.metrics
    assert metrics["accuracy/val"] == metrics["stage/quantize/accuracy/val"] == 0.96
    assert metrics["stage/train/size/file_bytes"] == 112_960
    assert metrics["size/file_bytes"] == 28_240
    assert steps(client, run_id, "train/prune/loss") == [(1, 0.5), (3, 0.25)]
    assert steps(client, run_id, "train/prune/sparsity") == [(1, 0.0), (3, 0.8)]
    assert "loss/test" not in metrics


def test_dataset_inputs(finished):
    inputs = client_of(finished).get_run(finished.mlflow["run_id"]).inputs.dataset_inputs
    found = {i.tags[0].value: i for i in inputs}
    assert {i.tags[0].key for i in inputs} == {"mlflow.data.context"}
    assert set(found) == {"train", "val", "test"}
    assert found["val"].dataset.name == "digits"
    assert found["val"].dataset.digest == "l" * 36
    assert '"num_rows": 20' in found["val"].dataset.profile


def test_files_are_readable_back(finished, outputs, tmp_path):
    client, run_id = client_of(finished), finished.mlflow["run_id"]
    (tmp_path / "got").mkdir()
    got = Path(client.download_artifacts(run_id, "", str(tmp_path / "got")))
    names = {p.relative_to(got).as_posix() for p in got.rglob("*") if p.is_file()}
    assert names == {"record.json", "config.yaml", "model.tflite", "stages/prune/model.tflite"}
    assert (got / "stages/prune/model.tflite").read_bytes() == b"stages/prune/model.tflite"
    assert finished.mlflow["run_id"] in (got / "record.json").read_text()
    assert client.get_run(run_id).info.artifact_uri.startswith((outputs / "mlartifacts").as_uri())


def test_a_second_end_changes_nothing(finished, outputs, said, run_folder):
    client, run_id = client_of(finished), finished.mlflow["run_id"]
    before = client.get_run(run_id).to_dictionary(), steps(client, run_id, "train/prune/loss")
    Mlflow().mirror(outputs, said.append).end(finished, run_folder)
    assert (client.get_run(run_id).to_dictionary(), steps(client, run_id, "train/prune/loss")) == before
    assert said == []


@pytest.mark.parametrize(("status", "shown"), [("failed", "FAILED"), ("interrupted", "KILLED")])
def test_a_run_that_did_not_end_well(outputs, make_record, said, run_folder, status, shown):
    record = make_record(stages=[], dataset={}, control=None)
    mirror = Mlflow().mirror(outputs, said.append)
    mirror.start(record)
    record.status, record.reason, record.ended = status, "the loss became NaN", record.started + 1
    mirror.end(record, run_folder)
    run = client_of(record).get_run(record.mlflow["run_id"])
    assert said == []
    assert run.info.status == shown
    assert run.data.tags["lightexp.status"] == status
    assert run.data.tags["lightexp.reason"] == "the loss became NaN"


def test_a_run_that_was_never_started_is_shown_whole_at_its_end(outputs, make_record, said, run_folder):
    record = make_record(status="done", ended=1_700_000_100.0, mlflow={"missing": "it was down"})
    Mlflow().mirror(outputs, said.append).end(record, run_folder)
    run = client_of(record).get_run(record.mlflow["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "3"
    assert "missing" not in record.mlflow


def test_awkward_config_reaches_mlflow(outputs, make_record, said):
    config = {f"k{n}": "é" * 6000 for n in range(250)} | {"a+b": 1, "a=b": 2, "": 3, "x": {"..": 4, "y\n": "\0\ud800"}}
    record = make_record(
        config=config, name="näme <&> '\"", varied=["a[0].b={c: 1}", "a(0).b=2", "=", "x" * 400 + "=1"]
    )
    Mlflow().mirror(outputs, said.append).start(record)
    assert said == []
    run = client_of(record).get_run(record.mlflow["run_id"])
    assert len(run.data.params) == 255
    assert run.info.run_name == record.name
    assert len([t for t in run.data.tags if t.startswith("vary/")]) == 3


def test_more_than_a_batch_of_metrics(outputs, make_record, said, run_folder):
    record = make_record(status="done")
    record.stages[0].facts["history"] = {"loss": [n / 7 for n in range(2500)]}
    Mlflow().mirror(outputs, said.append).end(record, run_folder)
    history = steps(client_of(record), record.mlflow["run_id"], "train/train/loss")
    assert said == []
    assert history[-1] == (2500, 2499 / 7)
    assert len(history) == 2500


def test_closing_a_killed_run(tmp_path, outputs, make_record, said):
    script = """
        import os, signal, sys
        from pathlib import Path
        from lightexp.core.record import Record
        from lightexp.tracking.mlflow import Mlflow
        record = Record("r", "name", "lightexp run", {}, [], {}, 1.7e9)
        Mlflow().mirror(Path(sys.argv[1]), print).start(record)
        record.write(Path(sys.argv[2]))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    words = [sys.executable, "-c", textwrap.dedent(script), str(outputs), str(tmp_path)]
    assert subprocess.run(words, check=False, timeout=60, cwd=ROOT).returncode == -signal.SIGKILL
    record = read_record(tmp_path)
    client = client_of(record)
    assert client.get_run(record.mlflow["run_id"]).info.status == "RUNNING"
    record.status = "killed"
    mirror = Mlflow().mirror(outputs, said.append)
    mirror.close(record)
    run = client.get_run(record.mlflow["run_id"])
    assert run.info.status == "KILLED"
    assert run.data.tags["lightexp.status"] == "killed"
    assert said == []
    mirror.close(record)
    mirror.close(make_record())  # never mirrored
    assert said == []
    assert client.get_run(record.mlflow["run_id"]).info.end_time == run.info.end_time


def test_closing_leaves_a_finished_run_alone(finished, outputs, said):
    Mlflow().mirror(outputs, said.append).close(finished)
    assert client_of(finished).get_run(finished.mlflow["run_id"]).info.status == "FINISHED"


def test_closing_makes_no_store_where_it_is_gone(tmp_path, make_record, said):
    record = make_record(mlflow={"uri": f"sqlite:///{tmp_path}/gone.db", "run_id": "0" * 32})
    Mlflow().mirror(tmp_path, said.append).close(record)
    assert list(tmp_path.iterdir()) == []
    assert said == []


def test_two_processes_begin_at_once_on_a_fresh_folder(tmp_path):
    script = """
        import sys, time
        from pathlib import Path
        from lightexp.core.record import Record
        from lightexp.tracking.mlflow import Mlflow
        from lightexp.tracking.stores import import_mlflow
        outputs, name = Path(sys.argv[1]), sys.argv[2]
        import_mlflow()
        Path(name).touch()
        while len(list(Path().glob("ready*"))) < 2:
            time.sleep(0.001)
        record = Record(name, name, "lightexp run", {"a": 1}, [], {}, 1.7e9, status="done")
        Mlflow().mirror(outputs, lambda words: sys.exit(words)).end(record, Path("nothing"))
        print(record.mlflow["run_id"])
    """
    outputs = tmp_path / "o ut's #1?&%41é"  # as awkward as a folder's name may be
    outputs.mkdir()
    (outputs / "mlflow.db.draft").write_text("left by a process that was killed over the migration")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(outputs), f"ready{n}"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    told = [process.communicate(timeout=100) for process in processes]
    assert [err for _, err in told] == ["", ""]
    assert [p.returncode for p in processes] == [0, 0]
    assert (outputs / "mlflow.db").is_file()
    client = stores.import_mlflow().MlflowClient(tracking_uri=stores.resolve_uri(None, outputs))
    experiment = client.get_experiment_by_name("lightexp")
    assert {r.info.run_id for r in client.search_runs([experiment.experiment_id])} == {out.strip() for out, _ in told}


def test_processes_that_show_a_study_in_turn_show_each_trial_once(outputs, said):
    here, there = (Mlflow().mirror(outputs, said.append) for _ in range(2))

    def show(mirror, *numbers, accuracy=0.5):
        trials = [
            TrialPayload(n, True, {"bits": "4"}, {"accuracy/val": accuracy}, {"lightexp.host": "h"}, n, n + 1)
            for n in numbers
        ]
        return mirror.study(StudyPayload("an id", "a study", "RUNNING", {"sampler": "tpe"}, [], trials))

    show(here, 0)
    run_id = show(there, 0, 1)["run_id"]
    assert said == []
    show(here, 1, 2, accuracy="no number")  # MLflow refuses it when the trial's run is made already
    assert len(said) == 1
    client = stores.import_mlflow().MlflowClient(tracking_uri=here.uri)
    children = client.get_run(run_id).info.experiment_id, f"tags.`{PARENT}` = '{run_id}'"
    assert len(client.search_runs(*children)) == 2  # trials are written together or not at all
    show(here, 1, 2, 3)
    found = client.search_runs(*children)
    assert sorted(run.data.tags[NUMBER] for run in found) == ["0", "1", "2", "3"]
    assert all(run.data.metrics == {"accuracy/val": 0.5} and run.data.params == {"bits": "4"} for run in found)
    assert {run.info.status for run in found} == {"FINISHED"}


def test_a_server_that_is_not_there_is_spoken_of_once(free_port, make_record, said, run_folder, capfd):
    mirror = Mlflow(uri=f"http://127.0.0.1:{free_port}").mirror(run_folder, said.append)
    began = time.perf_counter()
    for _ in range(2):
        record = make_record()
        mirror.start(record)
        record.status = "done"
        mirror.end(record, run_folder)
        assert record.mlflow["missing"] == "Connection refused"
        assert "run_id" not in record.mlflow
    assert time.perf_counter() - began < 5
    assert len(said) == 1
    assert str(free_port) in said[0]
    assert "\n" not in said[0]
    assert capfd.readouterr() == ("", "")


def test_a_server_that_does_not_answer_costs_seconds(make_record, said, run_folder):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        mirror = Mlflow(uri=f"http://127.0.0.1:{silent.getsockname()[1]}").mirror(run_folder, said.append)
        record = make_record(status="done")
        began = time.perf_counter()
        mirror.start(record)
        mirror.end(record, run_folder)
        assert time.perf_counter() - began < 5.5
    assert len(said) == 1
    assert record.mlflow["missing"]
    assert not [name for name in os.environ if name.startswith("MLFLOW_HTTP")]


@pytest.mark.parametrize("trouble", ["no database", "a folder", "no outputs"])
def test_a_store_that_cannot_be_used_stops_nothing(tmp_path, make_record, said, capfd, trouble):
    outputs = tmp_path / "outputs"
    if trouble == "no outputs":
        outputs.write_text("a file where the folder should be")
    elif trouble == "a folder":
        (outputs / "mlflow.db").mkdir(parents=True)
    else:
        outputs.mkdir()
        (outputs / "mlflow.db").write_text("not a database" * 100)
    record = make_record()
    began = time.perf_counter()
    Mlflow().mirror(outputs, said.append).start(record)
    assert time.perf_counter() - began < 5
    assert len(said) == 1
    assert record.mlflow["missing"] in said[0]
    assert capfd.readouterr() == ("", "")


def test_a_real_server(server, make_record, said, run_folder, capfd):
    record = make_record()
    mirror = Mlflow(uri=server, experiment="on a server").mirror(run_folder / "unused", said.append)
    mirror.start(record)
    client, run_id = client_of(record), record.mlflow["run_id"]
    assert client.get_run(run_id).info.status == "RUNNING"
    record.status, record.ended = "done", record.started + 5
    record.write(run_folder)
    mirror.end(record, run_folder)
    assert said == []
    assert capfd.readouterr() == ("", "")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "3"
    assert run.data.metrics["accuracy/val"] == 0.96
    assert {i.dataset.digest for i in run.inputs.dataset_inputs} == {"n" * 36, "l" * 36, "t" * 36}
    assert {a.path for a in client.list_artifacts(run_id)} == {"record.json", "config.yaml", "model.tflite", "stages"}
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert not (run_folder / "unused").exists()


def test_tracking_nowhere(tmp_path, make_record, said):
    record = make_record(status="done")
    mirror = NoTracking().mirror(tmp_path, said.append)
    mirror.start(record)
    mirror.end(record, tmp_path)
    mirror.close(record)
    assert said == []
    assert record.mlflow == {"missing": "tracking=none"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "http://me:secret@host", ""])
def test_addresses_that_are_refused(uri):
    with pytest.raises(BadInput, match="tracking"):
        build({"_target_": "lightexp.tracking.mlflow.Mlflow", "uri": uri}, Tracking, "tracking")


def test_configs_hold_exactly_the_settings():
    for path in (ROOT / "conf" / "tracking").glob("*.yaml"):
        node = yaml.safe_load(path.read_text())
        assert build(node, Tracking, "tracking") == locate(node["_target_"], "tracking")()
        assert set(node) - {"_target_"} == {f.name for f in fields(locate(node["_target_"], "tracking"))}


def test_mlflow_is_not_imported_before_it_is_used():
    code = (
        "import sys, pathlib\nfrom lightexp.tracking.mlflow import Mlflow\nimport lightexp.report.tradeoff\n"
        "Mlflow().mirror(pathlib.Path('x'), print)\n"
        "assert not {'mlflow', 'sqlalchemy', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=ROOT)
