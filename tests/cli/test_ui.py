"""`lightexp ui` as a user starts it: real servers, until they are interrupted or killed."""

from __future__ import annotations

import json
import signal
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from hydra.core.global_hydra import GlobalHydra

from lightexp.cli.main import main
from lightexp.tracking import stores
from tests.cli.commands import Running

STARTING = "Starting MLflow, which takes some seconds ..."


def fetch(address: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=30) as answer:
        return bytes(answer.read())


def is_listening(address: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0


def test_ui_serves_the_runs_store_until_interrupted(tmp_path: Path, copy_database: Callable[[Path], None]) -> None:
    outputs = tmp_path / "elsewhere with space"
    copy_database(outputs)
    client = stores.import_mlflow().MlflowClient(tracking_uri=stores.resolve_uri(None, outputs))
    client.create_experiment("the-right-store")
    for module in ("flask", "numpy", "sqlalchemy", "uvicorn", "wsgiref"):  # whichever is imported, and when
        (tmp_path / f"{module}.py").write_text("open('was-run', 'w').close()")
    running = Running("ui", "--port", "0", f"paths.outputs={outputs}", cwd=tmp_path)
    assert running.process.stdout is not None
    line = running.process.stdout.readline()
    try:
        address, _, title = line.partition("  ")
        assert address.startswith("http://127.0.0.1:") and str(outputs / "mlflow.db") in title and "Ctrl-C" in title
        response = json.loads(fetch(f"{address}/api/2.0/mlflow/experiments/search?max_results=10"))
        assert "the-right-store" in [experiment["name"] for experiment in response["experiments"]]
        assert b"<html" in fetch(address).lower()
    finally:
        running.interrupt()
        code, out, err = running.end()
    assert (code, out, err) == (0, "", f"{STARTING}\n")
    assert not is_listening(address)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".py") == [outputs.name]


@pytest.mark.parametrize("is_named", [True, False])
def test_ui_serves_a_study_until_killed_or_interrupted(tmp_path: Path, is_named: bool) -> None:
    pytest.importorskip("optuna_dashboard")
    journal = tmp_path / "a file" if is_named else tmp_path / "searches" / "tried" / "journal.log"
    journal.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    optuna.create_study(storage=storage, study_name="tried").enqueue_trial({"x": 1})
    overrides = [f"paths.outputs={tmp_path}", "search.study=tried"]
    if is_named:
        overrides.append(f"search.storage='{journal}'")
    running = Running("ui", "--optuna", "--port", "0", *overrides, cwd=tmp_path)
    assert running.process.stdout is not None
    line = running.process.stdout.readline()
    try:
        address, _, title = line.partition("  ")
        assert title == f"optuna-dashboard, over {journal}. Ctrl-C ends it.\n"
        response = json.loads(fetch(f"{address}/api/studies"))
        assert [study["study_name"] for study in response["study_summaries"]] == ["tried"]
    finally:
        if is_named:
            running.process.kill()
        else:
            running.interrupt()
        code, out, err = running.end()
    assert (code, out) == (-signal.SIGKILL if is_named else 0, "")
    assert err == "Starting optuna-dashboard, which takes some seconds ...\n"
    end = time.monotonic() + 60
    while is_listening(address) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_listening(address)  # whatever ends the command


def test_ui_refuses_a_missing_study_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna_dashboard")
    (tmp_path / "searches" / "other").mkdir(parents=True)
    (tmp_path / "searches" / "other" / "journal.log").write_text("")
    assert main(["ui", "--optuna", f"paths.outputs={tmp_path}", "search.study=tried"]) == 2
    output = capfd.readouterr()
    assert (output.out, len(output.err.splitlines())) == ("", 1)
    assert "has no study 'tried'. The studies are: other. Set search.study=NAME" in output.err
    GlobalHydra.instance().clear()


def test_ui_names_a_server_that_runs_already(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "tracking.uri=http://127.0.0.1:1"]) == 0
    assert capfd.readouterr().out == "http://127.0.0.1:1 is already a server: open it in a browser.\n"


def test_ui_refuses_bad_input_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, message in [
            (
                ["--port", port],
                f"no server can listen at 127.0.0.1:{port}: Address already in use. Choose another --port",
            ),
            (["--host", "256.1.1.1"], "no server can listen at 256.1.1.1:5000:"),
            (["--port", "70000"], "--port goes from 0 (any free one) to 65535. Received: 70000."),
            (["--port", "x"], "argument --port: invalid int value: 'x'"),
            (["--prot", "1"], "--prot is not a flag of lightexp ui: did you mean '--port'?"),
            (["tracking=none"], "ui shows what MLflow has. Received: tracking=none."),
            (["paths.outputs=nowhere"], "does not exist: nothing has been run into it"),
        ]:
            assert main(["ui", f"paths.outputs={tmp_path}", *arguments]) == 2, arguments
            output = capfd.readouterr()
            assert (output.out, len(output.err.splitlines())) == ("", 1)
            assert message in output.err
