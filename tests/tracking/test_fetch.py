"""Records read back from MLflow: what a server may answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.errors import BadInput
from lightexp.core.record import RECORD_FILE, Record
from lightexp.tracking import fetch
from lightexp.tracking.client import MlflowRun, TrackingClient
from lightexp.tracking.mlflow import Mlflow
from lightexp.tracking.study_payload import StudyPayload, TrialPayload
from tests import stand_in_servers


def test_download_records_reads_no_trials(
    tmp_path: Path,
    copy_database: Callable[[Path], None],
    make_record: Callable[..., Record],
    messages: list[str],
    sync: Callable[..., bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_database(tmp_path)
    mirror = Mlflow().open_mirror(tmp_path, messages.append)
    record = make_record(status="done", ended=1_700_000_100.0)
    sync(mirror, record)
    trials = [TrialPayload(number, True, {}, {"accuracy/val": 0.5}, {}, 1.0, 2.0) for number in range(4)]
    mirror.sync_study(StudyPayload("id", "a study", "FINISHED", trials=trials))
    read: list[MlflowRun] = []
    find_runs = TrackingClient.find_runs

    def find_and_note(*arguments: Any) -> Iterator[MlflowRun]:
        for run in find_runs(*arguments):
            read.append(run)
            yield run

    monkeypatch.setattr(TrackingClient, "find_runs", find_and_note)
    assert [found.id for found in fetch.download_records(Mlflow(mirror.uri), messages)] == [record.id]
    assert len(read) == len(["the run", "the study"])
    assert messages == []


def test_download_records_asks_an_older_server_for_all(make_record: Callable[..., Record]) -> None:
    record = make_record(status="done")
    with stand_in_servers.serve(artifact=record.to_json().encode(), refused="IS NULL") as server:
        trial = server.make_run(run_id="1" * 32, run_uuid="1" * 32)
        trial["data"]["tags"] = [{"key": "lightexp.trial", "value": "0"}]
        server.answers["runs/search"] = lambda answer: {"runs": [trial, *answer["runs"]]}
        complaints: list[str] = []
        records = list(fetch.download_records(Mlflow(server.url), complaints))
        assert server.requests.count("runs/search") == 2
    assert ([found.id for found in records], complaints) == ([record.id], [])


@pytest.mark.parametrize("run_id", ["../../escape", "/tmp/escape", "a/b", "..", "", "a" * 65])
def test_download_records_makes_no_folder_that_a_server_names(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_record: Callable[..., Record]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    make_record().write(tmp_path)
    content = (tmp_path / RECORD_FILE).read_bytes()
    (tmp_path / RECORD_FILE).unlink()
    with stand_in_servers.serve(artifact=content) as server:
        server.answers["runs/search"] = lambda answer: {"runs": [server.make_run(run_id=run_id, run_uuid=run_id)]}
        with pytest.raises(BadInput, match="run"):
            list(fetch.download_records(Mlflow(server.url), []))
    assert list(tmp_path.iterdir()) == []


def test_download_records_yields_a_studys_front(tmp_path: Path, make_record: Callable[..., Record]) -> None:
    make_record().write(tmp_path)
    names = ["trial_0003", "trial_0003.yaml", "trial_three", "record.json"]  # of every folder
    with stand_in_servers.serve(artifact=(tmp_path / RECORD_FILE).read_bytes()) as server:
        run = server.make_run()
        run["data"]["tags"] = [{"key": "lightexp.study", "value": "1"}, {"key": "mlflow.runName", "value": "tried"}]
        server.answers["runs/search"] = lambda answer: {"runs": [run]}
        server.answers["artifacts"] = lambda answer: {"files": [{"path": name, "is_dir": True} for name in names]}
        complaints: list[str] = []
        records = list(fetch.download_records(Mlflow(server.url), complaints))
    assert ([record.tags["row"] for record in records], complaints) == (["tried, trial 3"], [])
