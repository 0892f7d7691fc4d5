from __future__ import annotations

import json
import signal
import socket
import time
import urllib.request
from pathlib import Path

import optuna
import pytest
from hydra.core.global_hydra import GlobalHydra

from lightexp.cli.main import main
from lightexp.tracking import stores
from tests.cli.commands import Running


def ask(address: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=30) as answer:
        return bytes(answer.read())


def _answers(address: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0


def test_it_shows_the_right_store_until_it_is_interrupted(tmp_path: Path) -> None:
    outputs = tmp_path / "elsewhere with space"
    stores.prepare_database(outputs / "mlflow.db", outputs / "mlartifacts")
    client = stores.import_mlflow().MlflowClient(tracking_uri=stores.resolve_uri(None, outputs))
    client.create_experiment("the-right-store")
    running = Running("ui", "--port", "0", f"paths.outputs={outputs}", cwd=tmp_path)
    assert running.process.stdout is not None
    line = running.process.stdout.readline()
    try:
        address, _, words = line.partition("  ")
        assert address.startswith("http://127.0.0.1:") and str(outputs / "mlflow.db") in words and "Ctrl-C" in words
        found = json.loads(ask(f"{address}/api/2.0/mlflow/experiments/search?max_results=10"))
        assert "the-right-store" in [experiment["name"] for experiment in found["experiments"]]
        assert b"<html" in ask(address).lower()
    finally:
        running.interrupt()
        code, out, err = running.end()
    assert (code, out, err) == (0, "", "")
    assert not _answers(address)
    assert sorted(path.name for path in tmp_path.iterdir()) == [outputs.name]


@pytest.mark.parametrize("named", [True, False])
def test_it_shows_a_study_in_optuna_dashboard(tmp_path: Path, named: bool) -> None:
    pytest.importorskip("optuna_dashboard")
    journal = tmp_path / "a file" if named else tmp_path / "searches" / "tried" / "journal.log"
    journal.parent.mkdir(parents=True, exist_ok=True)
    kept = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    optuna.create_study(storage=kept, study_name="tried").enqueue_trial({"x": 1})
    words = [f"paths.outputs={tmp_path}", "search.study=tried", *[f"search.storage='{journal}'"] * named]
    running = Running("ui", "--optuna", "--port", "0", *words, cwd=tmp_path)
    assert running.process.stdout is not None
    line = running.process.stdout.readline()
    try:
        address, _, said = line.partition("  ")
        assert said == f"optuna-dashboard, over {journal}. Ctrl-C ends it.\n"
        found = json.loads(ask(f"{address}/api/studies"))
        assert [study["study_name"] for study in found["study_summaries"]] == ["tried"]
    finally:
        running.process.kill() if named else running.interrupt()
        code, out, err = running.end()
    assert (code, out, err) == (-signal.SIGKILL if named else 0, "", "")
    end = time.monotonic() + 60
    while _answers(address) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _answers(address)  # whatever ends the command


def test_a_study_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna_dashboard")
    (tmp_path / "searches" / "other").mkdir(parents=True)
    (tmp_path / "searches" / "other" / "journal.log").write_text("")
    assert main(["ui", "--optuna", f"paths.outputs={tmp_path}", "search.study=tried"]) == 2
    shown = capsys.readouterr()
    assert (shown.out, len(shown.err.splitlines())) == ("", 1)
    assert "has no study 'tried'. There are: other. Set search.study=NAME" in shown.err
    GlobalHydra.instance().clear()


def test_a_server_of_its_own_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "tracking.uri=http://127.0.0.1:1"]) == 0
    assert capsys.readouterr().out == "http://127.0.0.1:1 is a server of its own: open it in a browser.\n"


def test_a_taken_port_and_other_bad_input_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for words, said in [
            (
                ["--port", port],
                f"127.0.0.1:{port} cannot be listened at: Address already in use. Choose another --port",
            ),
            (["--host", "256.1.1.1"], "256.1.1.1:5000 cannot be listened at:"),
            (["--port", "70000"], "--port goes from 0 (any that is free) to 65535. Received: 70000."),
            (["--port", "x"], "argument --port: invalid int value: 'x'"),
            (["--prot", "1"], "--prot is not a flag of lightexp ui: did you mean '--port'?"),
            (["tracking=none"], "ui shows what MLflow has. Received: tracking=none."),
            (["paths.outputs=nowhere"], "nothing has been run into it"),
        ]:
            assert main(["ui", f"paths.outputs={tmp_path}", *words]) == 2, words
            shown = capsys.readouterr()
            assert shown.out == "" and len(shown.err.splitlines()) == 1
            assert said in shown.err
