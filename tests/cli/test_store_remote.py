"""Runs that share a remote store, and `lightexp store push`, `pull`, `verify --remote` and `gc --remote`."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from pathlib import Path

import pytest

from lightexp.cli.doctor import check_job
from lightexp.cli.main import main
from lightexp.core.folder_storage import FolderStorage
from lightexp.core.protocols import MeasurementContext, Metric
from lightexp.core.record import Record, read_record
from lightexp.core.records import load_records
from lightexp.core.store import Store
from lightexp.core.store_gc import list_items
from lightexp.core.store_sync import StoreSync
from lightexp.metrics.latency import Latency
from lightexp.runner.compose import compose_config, compose_settings
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.tracking.mirror import SyncResult
from lightexp.tracking.remote_mirror import RemoteMirror
from tests.cli.commands import read_records
from tests.tiny_runs import TinyRuns

PIPELINE = ("pipeline=quantize", "pipeline.stages.quantize.scheme=int8")
DAY_S = 86_400.0


class Hosts:
    """Two users' folders that share a remote store alone, and the record of a run in the first."""

    def __init__(self, folder: Path) -> None:
        self.url = f"file://{folder / 'remote'}"
        self.remote = folder / "remote"
        self.first, self.second = (TinyRuns(self._make(folder / name)) for name in ("a", "b"))
        self.record = self.first.run(*PIPELINE, f"store.remote={self.url}")

    def _make(self, folder: Path) -> Path:
        folder.mkdir()
        return folder


@pytest.fixture(scope="module")
def hosts(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    return Hosts(tmp_path_factory.mktemp("hosts"))


@pytest.fixture
def copy(hosts: Hosts, tmp_path: Path) -> tuple[Path, str]:
    """A copy of the remote store, and its address."""
    shutil.copytree(hosts.remote, tmp_path / "remote")
    return tmp_path / "remote", f"file://{tmp_path / 'remote'}"


def run_store(capfd: pytest.CaptureFixture[str], outputs: Path, url: str, *argv: str) -> tuple[int, str, str]:
    """Run `lightexp store`, and return exit code, output and errors."""
    code = main(["store", *argv, f"paths.outputs={outputs}", f"store.remote={url}"])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def list_objects(remote: Path) -> list[Path]:
    return sorted(path for path in remote.rglob("*") if path.is_file())


def age(remote: Path, days: float) -> None:
    for path in list_objects(remote):
        time = path.stat().st_mtime - days * DAY_S
        os.utime(path, (time, time))


def test_plan_says_what_the_remote_store_has(hosts: Hosts, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    empty = f"store.remote=file://{tmp_path / 'empty'}"
    for remote, count in ((f"store.remote={hosts.url}", 2), (empty, 0)):
        overrides = hosts.second.list_overrides(*PIPELINE, remote)
        assert main(["run", "--plan", *overrides, f"paths.outputs={tmp_path}"]) == 0
        captured = capfd.readouterr()
        assert captured.out.count("in the remote store") == count, captured.out
        assert captured.out.count("to be made") == 2 - count
    assert list(tmp_path.iterdir()) == []


def test_a_second_host_makes_nothing(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightexp.runner.execute.preview_plan", pytest.fail)  # which needs TensorFlow
    record = hosts.second.run(*PIPELINE, f"store.remote={hosts.url}")
    assert not any(stage.from_store for stage in hosts.record.stages)
    assert all(stage.from_store for stage in record.stages)
    assert hosts.second.get_file(record).read_bytes() == hosts.first.get_file(hosts.record).read_bytes()
    assert record.metrics == hosts.record.metrics
    assert record.config["store"] == {"remote": hosts.url}


def test_ctrl_c_during_uploads_leaves_complete_records(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    def sync(_: object, folder: Path, record: Record, *__: object) -> SyncResult:
        mirrored.append(record.status)
        return SyncResult({})

    mirrored: list[str] = []
    monkeypatch.setattr(StoreSync, "wait", interrupt)
    monkeypatch.setattr(RemoteMirror, "sync", sync)
    url = f"store.remote=file://{tmp_path / 'remote'}"
    with pytest.raises(KeyboardInterrupt):
        hosts.second.run(*PIPELINE, url)
    assert mirrored == ["running", "done"]
    settings = compose_settings(hosts.second.list_overrides(*PIPELINE, url))
    with pytest.raises(KeyboardInterrupt):
        Runner(SilentReporter()).trial(settings, [], tmp_path / "trial", [])
    assert read_record(tmp_path / "trial").status == "done"


def test_latency_is_timed_after_uploads(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote, manifests = tmp_path / "remote", []
    put_file = FolderStorage.put_file

    def put_slowly(self: FolderStorage, source: str, path: str) -> None:
        time.sleep(0.2)
        put_file(self, source, path)

    def measure(self: Latency, context: MeasurementContext) -> list[Metric]:
        manifests.append(len(list(remote.glob("entries/*/*/manifest.json"))))
        return []

    monkeypatch.setattr(FolderStorage, "put_file", put_slowly)
    monkeypatch.setattr(Latency, "measure", measure)
    latency = "+measure.latency={_target_: lightexp.metrics.latency.Latency}"
    record = hosts.second.run(*PIPELINE, latency, f"store.remote=file://{remote}")
    assert set(manifests) == {len(record.keys)}


def test_pull_fetches_a_run(hosts: Hosts, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outputs = tmp_path / "outputs"
    code, out, err = run_store(capfd, outputs, hosts.url, "pull", hosts.record.id)
    assert (code, err) == (0, "")
    assert "0 are missing" in out
    records, complaints = load_records(outputs)
    assert complaints == [] and [record.id for record in records] == [hosts.record.id]
    assert _drop_files(records[0]) == _drop_files(hosts.record)
    shipped = outputs / "runs" / hosts.record.id / "model.tflite"
    assert shipped.read_bytes() == hosts.first.get_file(hosts.record).read_bytes()
    assert all(Store(outputs / "store").check(key) for key in hosts.record.keys)
    assert main(["report", str(outputs)]) == 0
    assert run_store(capfd, outputs, hosts.url, "pull", hosts.record.id)[0] == 0


def _drop_files(record: Record) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in ("files", "ended", "status")}


@pytest.mark.parametrize("run", ["nobodys", "../x"])
def test_pull_refuses_a_wrong_id(hosts: Hosts, tmp_path: Path, capfd: pytest.CaptureFixture[str], run: str) -> None:
    code, _, err = run_store(capfd, tmp_path / "outputs", hosts.url, "pull", run)
    assert code == 2
    assert run in err and err.count("\n") == 1


def test_doctor_checks_the_remote_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(url: str) -> tuple[str, str]:
        settings = [f"paths.outputs={tmp_path / 'outputs'}", f"store.remote={url}"]
        checks = {check.name: check for check in check_job(settings, compose_config(settings))}
        return checks["remote store"].state, checks["remote store"].message

    url = f"file://{tmp_path / 'remote'}"
    assert check(url) == ("ok", f"{url} can be read and written")
    assert list_objects(tmp_path / "remote") == []
    monkeypatch.setattr("lightexp.core.remote_gc.time.time", lambda: 0.0)
    state, message = check(url)
    assert state == "note" and "this host's clock differs by" in message
    (tmp_path / "remote" / "lightexp-store.json").write_text('{"format": 2}')
    assert check(url)[0] == "bad"
    (tmp_path / "remote" / "lightexp-store.json").write_text("<html>")
    assert check(url)[0] == "note"
    (tmp_path / "remote" / "lightexp-store.json").unlink()
    shutil.rmtree(tmp_path / "remote" / "leases")
    (tmp_path / "remote" / "leases").write_text("a file in the place of a folder")
    assert "but not written" in check(url)[1]


def test_push_uploads_what_is_missing(hosts: Hosts, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    url, count = f"file://{tmp_path / 'other'}", len(list_items(hosts.first.outputs / "store"))
    for new, old in ((count, 0), (0, count)):
        lines = run_store(capfd, hosts.first.outputs, url, "push")[1].splitlines()
        assert lines[-2] == f"{new} entries were uploaded to {url}, {old} were there already."
        assert lines[-1] == "It has the records of 1 run of this host."
    code, out, _ = run_store(capfd, tmp_path / "outputs", url, "verify", "--remote")
    assert (code, out) == (0, f"{count} of {count} entries in {url} are sound.\n")


def test_verify_names_damaged_entries(
    copy: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    remote, url = copy
    file = max(remote.rglob("entries/*/*/*"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    code, out, _ = run_store(capfd, tmp_path / "outputs", url, "verify", "--remote")
    assert code == 1
    assert f"damaged: {file.parent.name}. " in out
    assert not list((tmp_path / "outputs" / "store").rglob("model.*"))


def test_gc_keeps_what_a_record_names(
    hosts: Hosts, copy: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    remote, url = copy
    objects = list_objects(remote)
    outputs = tmp_path / "outputs"
    age(remote, 2)
    assert run_store(capfd, outputs, url, "gc", "--remote")[1].startswith("0 entries")
    for path in remote.glob("records/*"):
        path.unlink()
    assert run_store(capfd, hosts.first.outputs, url, "gc", "--remote")[1].startswith(
        "0 entries"
    )  # local records name it
    code, out, _ = run_store(capfd, outputs, url, "gc", "--remote", "--dry-run")
    assert code == 0 and "would go" in out
    assert len(list_objects(remote)) > len(objects) - 3
    assert run_store(capfd, outputs, url, "gc", "--remote", "--older-than", "3d")[1].startswith("0 entries")
    assert "are gone" in run_store(capfd, outputs, url, "gc", "--remote")[1]
    assert [path.name for path in list_objects(remote)] == ["lightexp-store.json"]


def test_gc_forgets_records_that_are_asked_for(
    copy: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    remote, url = copy
    age(remote, 2)
    runs = [path.stem for path in remote.glob("records/*")]
    forget = ["gc", "--remote", *(f"--forget={run}" for run in runs)]
    outputs = tmp_path / "outputs"
    assert f", {len(runs)} records would go." in run_store(capfd, outputs, url, *forget, "--dry-run")[1]
    assert len(list(remote.glob("records/*"))) == len(runs)
    code, out, _ = run_store(capfd, outputs, url, *forget)
    assert code == 0 and f", {len(runs)} records are gone." in out
    assert [path.name for path in list_objects(remote)] == ["lightexp-store.json"]
    assert run_store(capfd, outputs, url, *forget)[0] == 2


def test_gc_keeps_what_is_younger_than_a_day(
    copy: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    remote, url = copy
    shutil.rmtree(remote / "records")
    age(remote, 0.9)
    assert run_store(capfd, tmp_path / "outputs", url, "gc", "--remote")[1].startswith("0 entries")


def test_gc_refuses_records_that_it_cannot_read(
    copy: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    remote, url = copy
    age(remote, 2)
    next(remote.glob("records/*")).write_text("{")
    code, _, err = run_store(capfd, tmp_path / "outputs", url, "gc", "--remote")
    assert code == 2 and "cannot be read" in err and err.count("\n") == 1
    assert run_store(capfd, tmp_path / "outputs", url, "gc", "--remote", *shlex.split(err)[-2:])[0] == 0


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["store", "push", "store.remote=null"], "none is set"),
        (["store", "verify", "--remote", "--deep", "store.remote=file:///x"], "--deep"),
        (["store", "gc", "--forget", "run", "--unreferenced"], "Add --remote"),
        (["run", "store.remote=s3://me:secret@bucket/x"], "store.remote"),
        (["run", "store.remote=ftp://host/x"], "store.remote"),
    ],
)
def test_bad_input_is_one_line(hosts: Hosts, capfd: pytest.CaptureFixture[str], argv: list[str], text: str) -> None:
    assert main([*argv, f"paths.outputs={hosts.first.outputs}"]) == 2
    err = capfd.readouterr().err
    assert text in err and err.count("\n") == 1
    assert "secret@" not in err
    assert len(read_records(hosts.first.outputs)) == 1
