"""Stores that misbehave: slow servers, answers of wrong types, broken databases."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.errors import BadInput
from lightexp.core.record import Record
from lightexp.tracking import fetch, stores
from lightexp.tracking.mirror import Mirror
from lightexp.tracking.mlflow import Mlflow
from lightexp.tracking.study_payload import StudyPayload, TrialPayload
from tests import stand_in_servers

LIMIT_S = 0.5
SLACK_S = 10.0  # of a busy machine; a complete answer that drips takes longer
SLOW: list[dict[str, Any]] = [{"drips": True}, *({"hangs_after": count} for count in (0, 1, 3, 6, 9))]
WRONG: list[Any] = [None, [], "text", 5, {"x": 1}, {"runs": [{}]}, {"run": {"info": {"run_id": "../x"}}}]
WRONG += [{"runs": [{"info": 5, "data": "x"}], "next_page_token": 7}, {"experiment": {"experiment_id": "../../x"}}]
WRONG += [{"files": [{"path": 5, "is_dir": "x", "file_size": "many"}]}, {"experiment": {"experiment_id": "a' or 'a"}}]
ENDPOINTS = ["experiments/get-by-name", "runs/search", "runs/create", "runs/get", "runs/log-batch", "artifacts"]
STUDY = StudyPayload("id", "a study", "RUNNING", {"a": "1"}, [], [TrialPayload(0, True, {}, {}, {}, 1.0, 2.0)])


@pytest.fixture(autouse=True)
def imported_mlflow() -> None:
    """Import MLflow before anything is timed."""
    stores.import_mlflow()


@pytest.mark.parametrize("behaviour", SLOW, ids=str)
def test_slow_server_counts_as_down_once(
    behaviour: dict[str, Any],
    tmp_path: Path,
    make_record: Callable[..., Record],
    messages: list[str],
    sync: Callable[..., bool],
) -> None:
    with stand_in_servers.serve(**behaviour) as server:
        mirror = Mlflow(server.url, timeout_s=LIMIT_S).open_mirror(tmp_path, messages.append)
        record = make_record(status="done")
        start = time.monotonic()
        sync(mirror, record)
        asked = len(server.requests)
        sync(mirror, record)
        missing = [record.mlflow["missing"], mirror.sync_study(STUDY)["missing"]]
        mirror.close_running()
        assert time.monotonic() - start < LIMIT_S + SLACK_S
        assert len(server.requests) == asked
    assert missing == ["it did not finish an answer in 0.5 s (tracking.timeout_s)"] * 2
    assert len(messages) == 1 and "cannot be used" in messages[0] and "track sync" in messages[0]


@pytest.mark.parametrize("behaviour", [{"drips": True}, {"hangs_after": 1}, {"hangs_after": 2}], ids=str)
def test_slow_server_ends_a_report(behaviour: dict[str, Any]) -> None:
    with stand_in_servers.serve(**behaviour) as server:
        start = time.monotonic()
        with pytest.raises(BadInput, match="did not finish an answer"):
            list(fetch.download_records(Mlflow(server.url, timeout_s=LIMIT_S), []))
        assert time.monotonic() - start < LIMIT_S + SLACK_S


@pytest.mark.parametrize("endless", [True, False])
def test_server_that_lists_runs_forever_ends_a_report(endless: bool) -> None:
    with stand_in_servers.serve() as server:
        runs = [server.make_run()] if endless else []
        server.answers["runs/search"] = lambda answer: {"runs": runs, "next_page_token": "more"}
        with pytest.raises(BadInput, match="it lists"):
            list(fetch.download_records(Mlflow(server.url), []))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_answers_of_wrong_types_stop_nothing(
    endpoint: str,
    tmp_path: Path,
    make_record: Callable[..., Record],
    sync: Callable[..., bool],
) -> None:
    with stand_in_servers.serve() as server:
        server.answers["runs/search"] = lambda answer: {"runs": []}
        for wrong in WRONG:
            server.answers[endpoint] = lambda answer, wrong=wrong: wrong
            messages: list[str] = []
            mirror: Mirror = Mlflow(server.url, timeout_s=10).open_mirror(tmp_path, messages.append)
            record = make_record(status="done")
            sync(mirror, record)
            mirror.sync_study(STUDY)
            mirror.close_running()
            assert all("\n" not in message for message in messages)
            assert "/" not in record.mlflow.get("run_id", "")
            complaints: list[str] = []
            try:
                assert list(fetch.download_records(Mlflow(server.url), complaints)) == []
            except BadInput as error:
                complaints.append(str(error))
            assert all("\n" not in line and not line.endswith(":") for line in complaints)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory, copy_database: Callable[[Path], None]) -> Path:
    """An MLflow database with a finished run that has no files."""
    folder = tmp_path_factory.mktemp("database")
    copy_database(folder)
    client = stores.import_mlflow().MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    run = client.create_run(client.create_experiment("lightexp"), tags={"a": "b"})
    client.log_metric(run.info.run_id, "m", 1.0)
    client.set_terminated(run.info.run_id)
    return folder / "mlflow.db"


@pytest.mark.parametrize(
    "damage",
    [
        "update runs set run_uuid = '../../x'",
        "update runs set artifact_uri = x'00ff'",
        "update runs set artifact_uri = null",
        "update runs set end_time = 'soon'",
        "update latest_metrics set value = 'much'",
        "update tags set value = x'ff'",
        "drop table runs",
        "drop table experiments",
        "update alembic_version set version_num = 'none'",
        "text",
        "cut",
    ],
)
def test_broken_database_gives_a_line(damage: str, database: Path, tmp_path: Path) -> None:
    broken = tmp_path / "mlflow.db"
    shutil.copyfile(database, broken)
    if " " in damage:
        connection = sqlite3.connect(broken)
        connection.execute("pragma ignore_check_constraints = on")
        connection.execute(damage)
        connection.commit()
        connection.close()
    else:
        broken.write_bytes({"text": b"no database " * 99, "cut": database.read_bytes()[:40_000]}[damage])
    complaints: list[str] = []
    try:
        assert list(fetch.download_records(Mlflow(f"sqlite:///{broken}"), complaints)) == []
    except BadInput as error:
        complaints.append(str(error))
    assert all("\n" not in line and not line.endswith(":") for line in complaints)
    assert len(complaints) == 1


@pytest.mark.parametrize(
    ("uri", "artifact_uri", "accepted"),
    [
        ("http://127.0.0.1:5000", "/data/artifacts", True),
        ("http://localhost", "file:///data", True),
        ("sqlite:///x.db", "file:///data", True),
        ("https://host", "mlflow-artifacts:/1", True),
        ("https://host", "s3://bucket", True),
        ("https://host", "/home/me/.ssh", False),
        ("http://host", "FILE:///home/me", False),
        ("http://host", None, False),
    ],
)
def test_remote_server_names_no_folder_of_this_machine(uri: str, artifact_uri: str | None, accepted: bool) -> None:
    assert (stores.find_location_problem(uri, artifact_uri) is None) == accepted
