from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from lightexp.cli.main import main
from lightexp.core.record import RECORD_FILE, Record, read_record
from lightexp.tracking import stores

MLFLOW, NONE = "lightexp.tracking.mlflow.Mlflow", "lightexp.tracking.mirror.NoTracking"


class Outputs:
    """A folder of outputs whose runs are synced."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    def sync(self, *words: str) -> tuple[int, str, str]:
        code = main(["track", "sync", f"paths.outputs={self.folder}", *words])
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def read(self, name: str) -> Record:
        return read_record(self.folder / "runs" / name)

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"


def shown(uri: str, experiment: str = "lightexp") -> dict[str, list[Any]]:
    """MLflow's runs by lightexp's run ids."""
    client = stores.import_mlflow().MlflowClient(tracking_uri=uri)
    found: dict[str, list[Any]] = {}
    for run in client.search_runs([client.get_experiment_by_name(experiment).experiment_id]):
        found.setdefault(run.data.tags["lightexp.run_id"], []).append(run)
    return found


def files(uri: str, run: Any) -> set[str]:
    client = stores.import_mlflow().MlflowClient(tracking_uri=uri)
    return {file.path for file in client.list_artifacts(run.info.run_id)}


@pytest.fixture
def outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Outputs:
    return Outputs(tmp_path / "outputs", capsys)


@pytest.fixture
def write(outputs: Outputs, make_record: Callable[..., Record]) -> Callable[..., Record]:
    """Writes a run as a runner leaves it."""

    def made(name: str, tracking: str = NONE, uri: str | None = None, **changes: Any) -> Record:
        record = make_record()
        node = {"_target_": tracking} | ({"uri": uri} if uri else {})
        config = {**record.config, "tracking": node, "plugins": []}
        record = make_record(**{"id": name, "config": config, "status": "done", "ended": record.started + 5, **changes})
        folder = outputs.folder / "runs" / name
        (folder / "stages").mkdir(parents=True)
        (folder / "model.tflite").write_bytes(b"model")
        (folder / "stages" / "notes.txt").write_text("notes")
        record.write(folder)
        return record

    return made


def test_what_mlflow_has_not_seen_is_uploaded_once(
    outputs: Outputs, write: Callable[..., Record], free_port: int
) -> None:
    down = f"http://127.0.0.1:{free_port}"
    write("a", mlflow={"missing": "tracking=none"})
    write("b", MLFLOW, mlflow={"uri": outputs.uri, "experiment": "lightexp", "missing": "disk full"}, status="failed")
    write("c", MLFLOW, down, mlflow={"uri": down, "experiment": "lightexp", "missing": "Connection refused"})
    write("d", status="running", ended=None)
    with FileLock(outputs.folder / "runs" / ".live" / "d.lock"):
        code, out, err = outputs.sync()
        assert code == 1
        assert out.splitlines()[-1] == f"2 uploaded, 1 still running, 1 failed: {outputs.uri}"
        assert err == f"lightexp: MLflow at {down} cannot be used: Connection refused. No run was uploaded there.\n"
        there = shown(outputs.uri)
        assert {name: [run.info.status for run in runs] for name, runs in there.items()} == {
            "a": ["FINISHED"],
            "b": ["FAILED"],
        }
        assert there["a"][0].data.metrics["accuracy/val"] == 0.96
        assert there["a"][0].data.params["seed"] == "3"
        assert files(outputs.uri, there["a"][0]) == {RECORD_FILE, "model.tflite", "stages"}
        place = {"uri": outputs.uri, "experiment": "lightexp", "run_id": there["a"][0].info.run_id}
        assert outputs.read("a").mlflow == place
        assert outputs.read("c").mlflow["missing"] == "Connection refused"
        assert outputs.sync("tracking.uri=" + outputs.uri)[1].splitlines()[-1] == (
            f"1 uploaded, 2 there already, 1 still running: {outputs.uri}"
        )
    before = {path: path.read_bytes() for path in outputs.folder.rglob(RECORD_FILE)}
    # its process has died: it is closed, then uploaded
    assert outputs.sync("tracking=mlflow")[:2] == (
        0,
        f"{shown_line(outputs, 'd')}1 uploaded, 3 there already: {outputs.uri}\n",
    )
    assert outputs.read("d").status == "killed"
    assert outputs.sync("tracking=mlflow") == (0, f"4 there already: {outputs.uri}\n", "")
    assert {name: len(runs) for name, runs in shown(outputs.uri).items()} == dict.fromkeys("abcd", 1)
    assert {path: text for path, text in before.items() if path.parent.name != "d"} == {
        path: path.read_bytes() for path in before if path.parent.name != "d"
    }


def shown_line(outputs: Outputs, name: str) -> str:
    record = outputs.read(name)
    return f"{name}  {record.name}: run {record.mlflow.get('run_id')}\n"


def test_another_server_gets_all_runs_and_their_records_stay(
    outputs: Outputs, write: Callable[..., Record], server: str
) -> None:
    write("a", MLFLOW)
    write("b", MLFLOW)
    assert outputs.sync()[0] == 0
    before = {name: outputs.read(name) for name in "ab"}
    words = [f"tracking.uri={server}", "tracking.experiment=copies"]
    code, out, err = outputs.sync(*words)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"2 uploaded: {server}"
    there = shown(server, "copies")
    assert {name: len(runs) for name, runs in there.items()} == {"a": 1, "b": 1}
    assert files(server, there["b"][0]) == {RECORD_FILE, "model.tflite", "stages"}
    assert {name: outputs.read(name) for name in "ab"} == before
    assert outputs.sync(*words) == (0, f"2 there already: {server}\n", "")
    assert outputs.sync() == (0, f"2 there already: {outputs.uri}\n", "")


def test_what_was_uploaded_in_part_is_completed_and_what_was_deleted_is_not(
    outputs: Outputs, write: Callable[..., Record]
) -> None:
    write("a", MLFLOW)
    write("b", MLFLOW)
    write("c", MLFLOW)
    assert outputs.sync()[0] == 0
    client = stores.import_mlflow().MlflowClient(tracking_uri=outputs.uri)
    runs = {name: found[0].info for name, found in shown(outputs.uri).items()}
    Path(runs["a"].artifact_uri.removeprefix("file://"), "stages", "notes.txt").write_text("n")
    client.update_run(runs["b"].run_id, "RUNNING")
    client.delete_run(runs["c"].run_id)
    code, out, _ = outputs.sync()
    assert (code, out.splitlines()[-1]) == (0, f"2 uploaded, 1 there already: {outputs.uri}")
    assert {name: [run.info.run_id for run in found] for name, found in shown(outputs.uri).items()} == {
        "a": [runs["a"].run_id],
        "b": [runs["b"].run_id],
    }
    assert client.get_run(runs["b"].run_id).info.status == "FINISHED"
    assert Path(runs["a"].artifact_uri.removeprefix("file://"), "stages", "notes.txt").read_text() == "notes"


def test_two_at_once_upload_once_and_a_kill_is_made_good(outputs: Outputs, write: Callable[..., Record]) -> None:
    for name in "abcd":
        write(name)
    command = [sys.executable, "-m", "lightexp.cli", "track", "sync", f"paths.outputs={outputs.folder}"]
    killed = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert killed.stdout is not None and killed.stdout.readline()  # the first is there; it goes on with the second
    killed.kill()
    killed.communicate()
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [child.communicate(timeout=300) for child in both]
    assert [child.returncode for child in both] == [0, 0], said
    assert f"4 there already: {outputs.uri}\n" in [out for out, _ in said], said
    assert {name: len(runs) for name, runs in shown(outputs.uri).items()} == dict.fromkeys("abcd", 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sync", "tracking=none"], "track sync uploads to MLflow. Received: tracking=none."),
        (["sync", "tracking.uri=folder"], "MLflow keeps no runs in plain folders"),
        (["sync", "tracking.url=x"], "tracking.url is not a setting: did you mean 'uri'?"),
        (["sync", "paths.outputs=nowhere"], "nowhere holds no runs. Set paths.outputs=FOLDER."),
        (["sync", "--all"], "--all is not a flag of lightexp track sync"),
        ([], "lightexp track --help shows how"),
    ],
)
def test_bad_input_to_sync_is_one_line(
    words: list[str], said: str, outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["track", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) == 1
    assert said in shown.err
