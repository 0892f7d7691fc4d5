"""Runs that share a remote store, and `lightexp store push`, `pull`, `verify --remote` and `gc --remote`."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from lightexp.cli.main import main
from lightexp.core.errors import RunFailed
from lightexp.core.folder_storage import FolderStorage
from lightexp.core.protocols import MeasurementContext, Metric
from lightexp.core.record import Record, read_record
from lightexp.core.remote_store import RemoteStore
from lightexp.core.store_gc import list_items
from lightexp.core.store_sync import StoreSync
from lightexp.metrics.latency import Latency
from lightexp.runner.compose import compose_settings
from lightexp.runner.execute import Executor
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.tracking.mirror import SyncResult
from lightexp.tracking.remote_mirror import RemoteMirror
from tests.cli.commands import read_records
from tests.cli.two_hosts import PIPELINE, Hosts, age, list_objects, run_store
from tests.small_disk import mount_small_disk


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
        statuses.append(record.status)
        return SyncResult({})

    statuses: list[str] = []
    monkeypatch.setattr(StoreSync, "wait", interrupt)
    monkeypatch.setattr(RemoteMirror, "sync", sync)
    url = f"store.remote=file://{tmp_path / 'remote'}"
    with pytest.raises(KeyboardInterrupt):
        hosts.second.run(*PIPELINE, url)
    assert statuses == ["running", "done"]
    settings = compose_settings(hosts.second.list_overrides(*PIPELINE, url))
    with pytest.raises(KeyboardInterrupt):
        Runner(SilentReporter()).trial(settings, [], tmp_path / "trial", [])
    assert read_record(tmp_path / "trial").status == "done"


def test_ctrl_c_during_a_run_waits_for_no_upload(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Executor, "make", interrupt)
    monkeypatch.setattr(StoreSync, "wait", pytest.fail)
    settings = compose_settings(
        hosts.second.list_overrides(*PIPELINE, f"store.remote=file://{tmp_path}", f"paths.outputs={tmp_path}")
    )
    runner = Runner(SilentReporter(), on_end=lambda record: statuses.append(record.status))
    statuses: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        runner.run(settings, [])
    with pytest.raises(KeyboardInterrupt):
        runner.trial(settings, [], tmp_path / "trial", [])
    assert statuses == ["interrupted"]


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


def test_push_uploads_what_is_missing(hosts: Hosts, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    url, count = f"file://{tmp_path / 'other'}", len(list_items(hosts.first.outputs / "store"))
    for new, old in ((count, 0), (0, count)):
        lines = run_store(capfd, hosts.first.outputs, url, "push")[1].splitlines()
        assert lines[-2] == f"{new} entries were uploaded to {url}, {old} were there already."
        assert lines[-1] == "It has the records of 1 run of this host."
    code, out, _ = run_store(capfd, tmp_path / "outputs", url, "verify", "--remote")
    assert (code, out) == (0, f"{count} of {count} entries in {url} are sound.\n")


def test_push_names_records_that_it_cannot_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for folder in ("store", "runs/broken"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs/broken/record.json").write_text("{")
    code, out, _ = run_store(capfd, tmp_path, f"file://{tmp_path / 'remote'}", "push")
    assert (code, len(out.splitlines())) == (1, 3)
    assert out.startswith(f"not uploaded: {tmp_path / 'runs/broken/record.json'} is not a record")


def test_interrupted_push_says_how_far_it_is(
    hosts: Hosts, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: RemoteStore, key: str, folder: Path) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(RemoteStore, "upload", interrupt)
    code, out, err = run_store(capfd, hosts.first.outputs, f"file://{tmp_path / 'other'}", "push")
    count = len(list_items(hosts.first.outputs / "store"))
    assert (code, out) == (130, f"Interrupted: 0 entries were uploaded, {count} have not been looked at.\n")
    assert err.count("\n") == 1


def test_addresses_may_have_spaces_and_percent_signs(
    hosts: Hosts, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, count = tmp_path / "a folder%20 ü", len(list_items(hosts.first.outputs / "store"))
    code, out, _ = run_store(capfd, hosts.first.outputs, f"'file://{folder}'", "push")
    assert code == 0 and f"{count} entries were uploaded" in out
    assert (folder / "lightexp-store.json").is_file()
    code, out, _ = run_store(capfd, tmp_path / "outputs", f"'file://{folder}'", "verify", "--remote")
    assert (code, out) == (0, f"{count} of {count} entries in file://{folder} are sound.\n")


def test_read_only_store_is_listed_as_such(hosts: Hosts, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outputs, source = tmp_path / "outputs", hosts.first.outputs / "store"
    outputs.mkdir()
    with mount_small_disk(outputs / "store") as disk:
        shutil.copytree(source, disk, dirs_exist_ok=True)
        count = len(list_items(disk))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        _, out, _ = run_store(capfd, outputs, hosts.url, "ls", "--all")
        assert (out.count("read-only"), out.count("in use")) == (count, 0)
        _, out, _ = run_store(capfd, outputs, hosts.url, "gc", "--unreferenced")
        assert out.startswith(f"0 of {count} entries are gone") and out.endswith(f"({count} read-only).\n")
        code, _, err = run_store(capfd, outputs, hosts.url, "verify", "--remote")
        assert code == 1
        assert err.endswith("cannot be written: Read-only file system. Set paths.outputs=FOLDER.\n")


def test_read_only_outputs_are_listed_and_verified(
    hosts: Hosts, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with mount_small_disk(tmp_path / "outputs") as outputs:
        shutil.copytree(hosts.first.outputs / "store", outputs / "store")
        subprocess.run(["mount", "-o", "remount,ro", str(outputs)], check=True)
        entries = list_items(outputs / "store")
        code, out, _ = run_store(capfd, outputs, hosts.url, "ls", "--all")
        assert (code, out.count("read-only")) == (0, len(entries))
        code, out, _ = run_store(capfd, outputs, hosts.url, "verify")
        assert (code, out[: out.index(",")]) == (0, f"{len(entries)} of {len(entries)} entries are sound")
        assert run_store(capfd, outputs, hosts.url, "gc", "--unreferenced", "--dry-run")[0] == 0
        for command in (("gc", "--unreferenced"), ("verify", "--deep"), ("push",)):
            code, _, err = run_store(capfd, outputs, hosts.url, *command)
            assert code == 2
            assert f"paths.outputs: {outputs} cannot be written." in err


def test_uploads_end_where_the_record_cannot_be_written(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, put_file, write, folders = tmp_path / "remote", FolderStorage.put_file, Record.write, list[Path]()

    def put_slowly(self: FolderStorage, source: str, path: str) -> None:
        time.sleep(0.2)
        put_file(self, source, path)

    def write_once(self: Record, folder: Path) -> None:
        folders.append(folder)
        if len(folders) > 1:
            raise OSError(28, "No space left on device")
        write(self, folder)

    monkeypatch.setattr(FolderStorage, "put_file", put_slowly)
    monkeypatch.setattr(Record, "write", write_once)
    with pytest.raises(RunFailed, match="is full"):
        hosts.second.run(*PIPELINE, f"store.remote=file://{remote}")
    assert len(list(remote.glob("entries/*/*/manifest.json"))) == len(hosts.record.keys)


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


def test_gc_frees_a_full_remote_store(
    copy: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, url = copy
    shutil.rmtree(remote / "records")
    count = len(list(remote.glob("entries/*/*")))
    age(remote, 2)
    newest = next(remote.glob("entries/*/*"))
    for path in newest.iterdir():
        path.touch()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FolderStorage, "pipe_file", fail)
    code, out, _ = run_store(capfd, tmp_path / "outputs", url, "gc", "--remote")
    assert code == 0
    assert "No space left on device). Ages count from its newest entry." in out and f"\n{count - 1} entries (" in out
    assert list(remote.glob("entries/*/*/manifest.json")) == [newest / "manifest.json"]


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


def test_gc_keeps_records_of_newer_versions(
    copy: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    remote, url = copy
    path = next(remote.glob("records/*"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 3}))
    code, _, err = run_store(capfd, tmp_path / "outputs", url, "gc", "--remote")
    assert code == 2 and err.endswith("it is of format 3; this lightexp reads formats 1 and 2. Upgrade lightexp.\n")


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["store", "push", "store.remote=null"], "none is set"),
        (["store", "verify", "--remote", "--deep", "store.remote=file:///x"], "--deep"),
        (["store", "gc", "--forget", "run", "--unreferenced"], "Add --remote"),
        (["run", "store.remote=s3://me:secret@bucket/x"], "store.remote"),
        (["run", "store.remote=ftp://host/x"], "store.remote: no address of a remote store. Write s3://BUCKET/PREFIX"),
        (["run", "store.remote=file:///"], "store.remote"),
        (["run", "store.remote="], "store.remote"),
    ],
)
def test_bad_input_is_one_line(hosts: Hosts, capfd: pytest.CaptureFixture[str], argv: list[str], text: str) -> None:
    assert main([*argv, f"paths.outputs={hosts.first.outputs}"]) == 2
    err = capfd.readouterr().err
    assert text in err and err.count("\n") == 1
    assert "secret@" not in err
    assert len(read_records(hosts.first.outputs)) == 1
