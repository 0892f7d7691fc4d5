"""`lightexp track sync`: what is uploaded, once, to which store."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from lightexp.cli import track
from lightexp.cli.main import main
from lightexp.core.record import RECORD_FILE, Record, read_record
from lightexp.tracking import stores
from tests import stand_in_servers
from tests.command_server import run_command
from tests.tracking.helpers import count_runs, find_runs, list_files

MLFLOW, NONE = "lightexp.tracking.mlflow.Mlflow", "lightexp.tracking.mirror.NoTracking"


class SyncedOutputs:
    """An outputs folder whose runs are synced."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capfd

    def sync(self, *overrides: str) -> tuple[int, str, str]:
        """Run `lightexp track sync`, and return exit code, output and errors."""
        code = main(["track", "sync", f"paths.outputs={self.folder}", *overrides])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def read(self, name: str) -> Record:
        """Read the record of a run."""
        return read_record(self.folder / "runs" / name)

    def format_line(self, name: str) -> str:
        """Return the line that is printed for a run that was uploaded."""
        record = self.read(name)
        return f"{name}  {record.name}: run {record.mlflow.get('run_id')}\n"

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"


@pytest.fixture
def outputs(tmp_path: Path, capfd: pytest.CaptureFixture[str], copy_database: Callable[[Path], None]) -> SyncedOutputs:
    copy_database(tmp_path / "outputs")
    return SyncedOutputs(tmp_path / "outputs", capfd)


@pytest.fixture
def write(outputs: SyncedOutputs, make_record: Callable[..., Record]) -> Callable[..., Record]:
    """Write a run as a runner leaves it."""

    def write_run(name: str, tracking: str = NONE, uri: str | None = None, **changes: Any) -> Record:
        record = make_record()
        node = {"_target_": tracking}
        if uri:
            node["uri"] = uri
        config = {**record.config, "tracking": node, "plugins": []}
        record = make_record(**{"id": name, "config": config, "status": "done", "ended": record.started + 5, **changes})
        folder = outputs.folder / "runs" / name
        (folder / "stages").mkdir(parents=True)
        (folder / "model.tflite").write_bytes(b"model")
        (folder / "stages" / "notes.txt").write_text("notes")
        record.write(folder)
        return record

    return write_run


def test_sync_uploads_what_mlflow_lacks_once(
    outputs: SyncedOutputs, write: Callable[..., Record], free_port: int
) -> None:
    down = f"http://127.0.0.1:{free_port}"
    write("a", mlflow={"missing": "tracking=none"})
    write("b", MLFLOW, mlflow={"uri": outputs.uri, "experiment": "lightexp", "missing": "disk full"}, status="failed")
    write("c", MLFLOW, down, mlflow={"uri": down, "experiment": "lightexp", "missing": "Connection refused"})
    write("d", status="running", ended=None)
    with FileLock(outputs.folder / "runs" / ".live" / "d.lock"):
        code, out, err = outputs.sync()
        assert code == 0
        assert out.splitlines()[-1] == f"2 uploaded, 1 still running, 1 left out: {outputs.uri}"
        assert err == (
            f"lightexp: left out: 1 recorded for {down}. Add --to-recorded to send each run to the server that its "
            "record names, or set tracking.uri=URI to send all runs to one.\n"
        )
        code, out, err = outputs.sync("--to-recorded")
        assert code == 1
        assert out.splitlines()[-1] == f"2 there already, 1 still running, 1 failed: {outputs.uri}"
        assert err == (
            f"lightexp: MLflow at {down} cannot be used: Connection refused. "
            "Records stay complete; 'lightexp track sync' uploads them once it can.\n"
        )
        runs = find_runs(outputs.uri)
        assert {name: [run.info.status for run in named] for name, named in runs.items()} == {
            "a": ["FINISHED"],
            "b": ["FAILED"],
        }
        assert runs["a"][0].data.metrics["accuracy/val"] == 0.96
        assert runs["a"][0].data.params["seed"] == "3"
        assert list_files(outputs.uri, runs["a"][0]) == {RECORD_FILE, "metrics.json", "model.tflite", "stages"}
        place = {"uri": outputs.uri, "experiment": "lightexp", "run_id": runs["a"][0].info.run_id}
        assert outputs.read("a").mlflow == place
        assert outputs.read("c").mlflow["missing"] == "Connection refused"
        assert outputs.sync("tracking.uri=" + outputs.uri)[1].splitlines()[-1] == (
            f"1 uploaded, 2 there already, 1 still running: {outputs.uri}"
        )
    before = {path: path.read_bytes() for path in outputs.folder.rglob(RECORD_FILE)}
    # The process of d has died: d is marked as killed, then uploaded.
    assert outputs.sync("tracking=mlflow")[:2] == (
        0,
        f"{outputs.format_line('d')}1 uploaded, 3 there already: {outputs.uri}\n",
    )
    assert outputs.read("d").status == "killed"
    assert outputs.sync("tracking=mlflow") == (0, f"4 there already: {outputs.uri}\n", "")
    assert count_runs(outputs.uri) == dict.fromkeys("abcd", 1)
    assert {path: text for path, text in before.items() if path.parent.name != "d"} == {
        path: path.read_bytes() for path in before if path.parent.name != "d"
    }


def test_sync_copies_runs_to_another_server(outputs: SyncedOutputs, write: Callable[..., Record], server: str) -> None:
    write("a", MLFLOW)
    write("b", MLFLOW)
    assert outputs.sync()[0] == 0
    before = {name: outputs.read(name) for name in "ab"}
    overrides = [f"tracking.uri={server}", "tracking.experiment=copies"]
    code, out, err = outputs.sync(*overrides)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"2 uploaded: {server}"
    assert count_runs(server, "copies") == {"a": 1, "b": 1}
    assert list_files(server, find_runs(server, "copies")["b"][0]) == {
        RECORD_FILE,
        "metrics.json",
        "model.tflite",
        "stages",
    }
    assert {name: outputs.read(name) for name in "ab"} == before
    assert outputs.sync(*overrides) == (0, f"2 there already: {server}\n", "")
    assert outputs.sync() == (0, f"2 there already: {outputs.uri}\n", "")


def test_sync_completes_uploads_but_not_deleted_runs(outputs: SyncedOutputs, write: Callable[..., Record]) -> None:
    write("a", MLFLOW)
    write("b", MLFLOW)
    write("c", MLFLOW)
    assert outputs.sync()[0] == 0
    client = stores.import_mlflow().MlflowClient(tracking_uri=outputs.uri)
    runs = {name: named[0].info for name, named in find_runs(outputs.uri).items()}
    notes = Path(runs["a"].artifact_uri.removeprefix("file://"), "stages", "notes.txt")
    notes.write_text("n")
    client.update_run(runs["b"].run_id, "RUNNING")
    client.delete_run(runs["c"].run_id)
    code, out, _ = outputs.sync()
    assert (code, out.splitlines()[-1]) == (0, f"2 uploaded, 1 deleted in MLflow: {outputs.uri}")
    assert {name: [run.info.run_id for run in named] for name, named in find_runs(outputs.uri).items()} == {
        "a": [runs["a"].run_id],
        "b": [runs["b"].run_id],
    }
    assert client.get_run(runs["b"].run_id).info.status == "FINISHED"
    assert notes.read_text() == "notes"


def test_sync_compares_a_sample_of_noted_runs(
    outputs: SyncedOutputs, write: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track, "DRAWN", 0)
    monkeypatch.setattr(track, "NEWEST", 1)
    for number, name in enumerate("abc"):
        write(name, started=1_700_000_000.0 + number)
    assert outputs.sync()[0] == 0
    trusted = "2 unchanged since their upload was noted; --compare-all asks MLflow about each.\n"
    assert outputs.sync() == (0, f"{trusted}3 there already: {outputs.uri}\n", "")

    client = stores.import_mlflow().MlflowClient(tracking_uri=outputs.uri)
    run_ids = {name: named[0].info.run_id for name, named in find_runs(outputs.uri).items()}
    client.update_run(run_ids["a"], "RUNNING")
    assert outputs.sync()[1] == f"{trusted}3 there already: {outputs.uri}\n"  # only c is compared
    last_lines = [outputs.sync("--compare-all")[1].splitlines()[-1]]
    client.update_run(run_ids["a"], "RUNNING")
    client.update_run(run_ids["c"], "RUNNING")
    last_lines.append(outputs.sync()[1].splitlines()[-1])
    (outputs.folder / "runs" / "a" / "stages" / "notes.txt").write_text("notes added")
    last_lines.append(outputs.sync()[1].splitlines()[-1])
    assert last_lines == [
        f"1 uploaded, 2 there already: {outputs.uri}",
        f"2 uploaded, 1 there already: {outputs.uri}",  # c differs, so that a is compared as well
        f"1 uploaded, 2 there already: {outputs.uri}",
    ]
    with closing(sqlite3.connect(outputs.folder / "mlflow.db")) as database:
        database.execute("update experiments set creation_time = creation_time + 1")
        database.commit()
    assert outputs.sync()[1] == f"3 there already: {outputs.uri}\n"  # notes of another store count for nothing


def test_sync_shows_its_rate_and_the_time_left(
    outputs: SyncedOutputs, write: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track, "PROGRESS_PAUSE_S", 0.0)
    write("a", status="failed")
    write("b", status="failed")
    _, _, err = outputs.sync()
    assert re.fullmatch(
        r"lightexp: 1 of 2 runs, [\d.]+ runs/s, about \d+ s left\n"
        r"lightexp: 2 of 2 runs, [\d.]+ runs/s, about 0 s left\n",
        err,
    )


def test_sync_counts_records_that_cannot_be_read(
    outputs: SyncedOutputs, write: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track, "MAX_COMPLAINTS", 2)
    write("a", status="failed")
    for name in "bcde":
        (outputs.folder / "runs" / name).mkdir()
        (outputs.folder / "runs" / name / RECORD_FILE).write_text("{")
    code, out, err = outputs.sync()
    assert (code, out.splitlines()[-1]) == (0, f"1 uploaded, 4 left out: {outputs.uri}")
    assert [line.split()[-1] for line in err.splitlines()] == ["out.", "out.", "counts"]


def test_sync_says_that_it_waits(outputs: SyncedOutputs, monkeypatch: pytest.MonkeyPatch) -> None:
    (outputs.folder / "runs").mkdir()
    with FileLock(outputs.folder / "runs" / ".sync.lock") as other:
        monkeypatch.setattr(track, "print_error", lambda line, _: "waiting for it" in line and other.release())
        assert outputs.sync()[0] == 0  # it would wait for ever


def test_sync_leaves_out_a_run_that_is_removed_meanwhile(
    outputs: SyncedOutputs, write: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a", status="failed")
    write("b", status="failed", started=1_800_000_000.0)
    monkeypatch.setattr(track, "print_line", lambda line: shutil.rmtree(outputs.folder / "runs" / "b", True))
    code, _, err = outputs.sync()
    assert code == 0
    assert err.startswith("lightexp: left out: ") and "runs/b does not exist" in err
    assert count_runs(outputs.uri) == {"a": 1}


def test_interrupted_sync_goes_on(outputs: SyncedOutputs, write: Callable[..., Record]) -> None:
    for name in "abcd":
        write(name)
    command = [sys.executable, "-m", "lightexp.cli", "track", "sync", f"paths.outputs={outputs.folder}"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline()  # the first is uploaded
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err.count("\n")) == (130, 1), err
    assert "lightexp track sync" in err
    assert outputs.sync()[0] == 0
    assert count_runs(outputs.uri) == dict.fromkeys("abcd", 1)


def test_sync_uploads_once_despite_kills_and_rivals(outputs: SyncedOutputs, write: Callable[..., Record]) -> None:
    for name in "abcd":
        write(name)
    command = [sys.executable, "-m", "lightexp.cli", "track", "sync", f"paths.outputs={outputs.folder}"]
    killed = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert killed.stdout is not None and killed.stdout.readline()  # the first is uploaded, the second is next
    killed.kill()
    killed.communicate()
    arguments = ["track", "sync", f"paths.outputs={outputs.folder}"]
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(run_command, arguments, outputs.folder, os.environ, 300) for _ in range(2)]
        rivals = [call.result() for call in calls]
    assert [rival.returncode for rival in rivals] == [0, 0], rivals
    assert f"4 there already: {outputs.uri}\n" in [rival.stdout for rival in rivals], rivals
    assert count_runs(outputs.uri) == dict.fromkeys("abcd", 1)


def test_sync_sends_nothing_that_strangers_chose(
    outputs: SyncedOutputs, write: Callable[..., Record], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("do not send")
    with stand_in_servers.serve() as stranger:
        write("elsewhere", MLFLOW, stranger.url)
        write("shown-elsewhere", MLFLOW, mlflow={"uri": stranger.url, "experiment": "e", "run_id": "0" * 32})
        write("plugin", "stranger_plugin.Tracking", stranger.url)
        write("linking")
        (outputs.folder / "runs" / "linking" / "notes").symlink_to(secret / "key")
        (outputs.folder / "runs" / "linking" / "stages" / "own").symlink_to("../model.tflite")
        climbing = write("climbing")
        for name in ("../../secret", "/etc", "", "a' or 'a"):
            climbing.id = name
            climbing.write(outputs.folder / "runs" / "climbing")
            code, out, err = outputs.sync()
            assert (code, out.count("left out"), err.count("left out")) == (0, 1, 2)
            assert f"holds the id {name!r}" in err
        write("link").write(secret)
        shutil.rmtree(outputs.folder / "runs" / "link")
        (outputs.folder / "runs" / "link").symlink_to(secret)
        assert "link is a link that leads out of" in outputs.sync()[2]
        assert stranger.requests == []
        assert {path.name for path in secret.iterdir()} == {"key", RECORD_FILE}
        runs = find_runs(outputs.uri)
        assert set(runs) == {"linking", "plugin"}
        assert list_files(outputs.uri, runs["linking"][0]) == {RECORD_FILE, "metrics.json", "model.tflite", "stages"}
        assert outputs.sync("--to-recorded")[0] == 0
        assert "runs/log-batch" in stranger.requests


def test_sync_updates_no_run_of_others(outputs: SyncedOutputs, write: Callable[..., Record]) -> None:
    write("a")
    assert outputs.sync()[0] == 0
    mine = find_runs(outputs.uri)["a"][0].info.run_id
    write("b", mlflow={"uri": outputs.uri, "experiment": "lightexp", "run_id": mine})
    assert outputs.sync()[0] == 0
    assert count_runs(outputs.uri) == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sync", "tracking=none"], "track sync uploads to MLflow. Received: tracking=none."),
        (["sync", "tracking.uri=folder"], "MLflow keeps no runs in plain folders"),
        (["sync", "tracking.url=x"], "tracking.url is not a setting: did you mean 'uri'?"),
        (["sync", "paths.outputs=nowhere"], "nowhere holds no runs. Set paths.outputs=FOLDER."),
        (["sync", "--to-recorded", "tracking.experiment=e"], "name different places. Leave one of them out."),
        (["sync", "--all"], "--all is not a flag of lightexp track sync"),
        ([], "See lightexp track --help."),
    ],
)
def test_sync_refuses_bad_input_in_one_line(
    argv: list[str], message: str, outputs: SyncedOutputs, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["track", *argv]) == 2
    captured = capfd.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert message in captured.err
