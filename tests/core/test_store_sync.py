"""The remote store behind local ones: an S3 server on loopback, hosts that share nothing else, and faults."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.errors import BadInput
from lightexp.core.folder_storage import FolderStorage
from lightexp.core.object_storage import ObjectStorage, StorageUnavailable
from lightexp.core.remote_store import MARKER
from lightexp.core.store import Store
from lightexp.core.store_entry import MANIFEST
from tests.core.remote_hosts import DAY_S, EXPIRY_S, KEY, Host, collect, write_weights
from tests.object_server import FaultProxy


def test_ensure_fetches_from_another_host(url: str, tmp_path: Path) -> None:
    first, second = Host(tmp_path / "a", url), Host(tmp_path / "b", url)
    assert not first.ensure()
    first.store.close()
    assert second.ensure()
    assert (first.made, second.made) == (1, 0)
    assert second.store.check(KEY) == Store(tmp_path / "b").load(KEY)
    assert not list(first.remote.storage.list_objects("leases"))
    assert first.lines == second.lines == []


def test_find_fetches_and_makes_nothing(url: str, tmp_path: Path, proxy: FaultProxy) -> None:
    first, second = Host(tmp_path / "a", url), Host(tmp_path / "b", url)
    assert second.store.find(KEY) is None
    first.ensure()
    first.store.close()
    assert second.store.find(KEY) == second.store.check(KEY)
    assert second.store.has(KEY)
    proxy.fault = "html"
    assert second.store.find("cd" + "0" * 62) is None
    assert len(second.lines) == 1


def test_locate_looks_at_both_stores(url: str, tmp_path: Path, proxy: FaultProxy) -> None:
    first, second = Host(tmp_path / "a", url), Host(tmp_path / "b", url)
    first.ensure()
    first.store.close()
    others = [f"{number:064x}" for number in range(40)]
    assert first.store.locate([KEY, *others]) == {KEY: "local"}
    assert second.store.locate([KEY, *others]) == {KEY: "remote"}
    assert second.lines == []
    third = Host(tmp_path / "c", url, timeout_s=2)
    proxy.fault = "stall"
    start = time.monotonic()
    assert third.store.locate([KEY, *others]) == third.store.locate([KEY, *others]) == {}
    assert time.monotonic() - start < 41  # seconds: not one timeout for each key, nor twice
    assert len(third.lines) == 1


def test_ensure_waits_for_the_host_with_the_lease(url: str, tmp_path: Path) -> None:
    first, second = Host(tmp_path / "a", url), Host(tmp_path / "b", url)
    started, gate = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        assert gate.wait(60)

    threads = [threading.Thread(target=first.ensure, args=[hold]), threading.Thread(target=second.ensure)]
    threads[0].start()
    assert started.wait(60)
    threads[1].start()
    threads[1].join(3 * EXPIRY_S)  # the lease is renewed: it does not expire
    assert threads[1].is_alive()
    gate.set()
    for thread in threads:
        thread.join(60)
    assert (first.made, second.made) == (1, 0)
    assert second.lines == ["waits"]


def test_ensure_makes_once_a_dead_hosts_lease_expires(url: str, tmp_path: Path) -> None:
    host = Host(tmp_path / "a", url)
    host.remote.storage.write(f"leases/{KEY}", b"of a process that was killed")
    assert not host.ensure()
    assert host.lines == ["waits"]


def test_ensure_uploads_an_entry_that_was_made_before(url: str, tmp_path: Path) -> None:
    host = Host(tmp_path / "a", url)
    Store(tmp_path / "a").ensure(KEY, "a", write_weights)
    assert host.ensure()
    host.store.close()
    assert host.made == 0
    assert Host(tmp_path / "c", url).ensure()


def test_ensure_uploads_again_what_both_stores_lost(tmp_path: Path) -> None:
    host = Host(tmp_path / "a", f"file://{tmp_path / 'remote'}")
    for made in (1, 2):
        assert not host.ensure()
        host.store.close()
        assert (host.made, host.remote.has(KEY)) == (made, True)
        assert not list(host.remote.storage.list_objects("leases"))
        host.remote.remove(host.remote.list_entries()[KEY])
        shutil.rmtree(host.store.folder(KEY))


def test_files_of_any_name_are_shared(tmp_path: Path) -> None:
    first, second = (Host(tmp_path / name, f"file://{tmp_path / 'remote'}") for name in "ab")
    names = {"größe 1%.bin", ".hidden", "...", "a\nb"}

    def make(folder: Path) -> dict[str, Any]:
        for name in names:
            (folder / name).write_text(name)
        return {}

    first.store.ensure(KEY, "a", make)
    first.store.close()
    entry = second.store.find(KEY)
    assert entry is not None
    assert names < {path.name for path in entry.folder.iterdir()}
    assert first.lines == second.lines == []


def test_an_entry_altered_before_its_upload_is_left_out(tmp_path: Path) -> None:
    host = Host(tmp_path / "a", f"file://{tmp_path / 'remote'}")
    host.store.ensure(KEY, "a", write_weights)
    host.store.close()
    (host.store.folder(KEY) / MANIFEST).write_text("[]")
    for number, folder in enumerate((host.store.folder(KEY), tmp_path / "removed")):
        host.sync.upload(f"cd{number:062d}", folder)
        host.store.close()
        assert not host.remote.has(f"cd{number:062d}")
    assert host.lines == []


def test_ensure_goes_on_after_the_loss_of_the_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError("The specified bucket does not exist")  # as s3fs says it

    host = Host(tmp_path / "a", f"file://{tmp_path}")
    monkeypatch.setattr(FolderStorage, "pipe_file", refuse)
    host.ensure()
    host.store.close()
    problem = f"file://{tmp_path} cannot be used (The specified bucket does not exist)"
    assert host.lines[0] == f"{problem}. The run goes on with the local store."


def test_a_failed_make_leaves_no_lease(url: str, tmp_path: Path) -> None:
    first, second = Host(tmp_path / "a", url), Host(tmp_path / "b", url)
    with pytest.raises(ZeroDivisionError):
        first.ensure(lambda: 1 / 0)
    assert not list(first.remote.storage.list_objects("leases"))
    assert not second.ensure()
    assert second.lines == []


def test_a_failed_make_asks_nothing_of_a_silent_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path / "a", f"file://{tmp_path / 'remote'}")
    names: list[str] = []

    def give_no_answer(_: object, name: str) -> bytes:
        names.append(name)
        raise StorageUnavailable("no answer in 20 s")

    def fail() -> None:
        monkeypatch.setattr(ObjectStorage, "read", give_no_answer)
        assert host.store.find("cd" + "0" * 62) is None
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        host.ensure(fail)
    assert len(names) == 1  # by `find`: each further request would wait as long
    assert host.lines == ["no answer in 20 s. The run goes on with the local store."]


def test_a_host_killed_in_mid_upload_leaves_no_entry(url: str, tmp_path: Path, proxy: FaultProxy) -> None:
    code = """
import sys, os
from pathlib import Path
from tests.core.remote_hosts import Host, KEY
host = Host(Path(sys.argv[1]), sys.argv[2])
def make(folder):
    (folder / "small.bin").write_bytes(b"1")
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(60_000_000)
    return {}
host.store.ensure(KEY, "a", make)
host.store.close()
"""
    proxy.limit = 1_000_000
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a"), url], cwd=Path(__file__).parents[2])
    try:
        assert proxy.stalled.wait(120)
    finally:
        child.kill()
        child.wait()
    proxy.limit = None
    host = Host(tmp_path / "b", url)
    assert not host.remote.has(KEY)
    assert list(host.remote.list_entries()) == [KEY]  # its small file
    (upload,) = host.remote.storage.list_uploads()
    collect(host, upload.time + DAY_S - 1)
    assert host.remote.storage.list_uploads() == [upload]
    collect(host, upload.time + DAY_S)
    assert host.remote.storage.list_uploads() == []
    assert not host.ensure()
    host.store.close()
    assert Host(tmp_path / "c", url).ensure()


def name_manifest(host: Host) -> str:
    return f"entries/ab/{KEY}/{MANIFEST}"


def name_weights(host: Host) -> str:
    manifest = json.loads(host.remote.storage.read(name_manifest(host)))
    return f"entries/ab/{KEY}/{manifest['files']['model.tflite']}"


def write_path(host: Host) -> None:
    """Write a manifest of which a file would be written outside the store."""
    host.remote.storage.write(f"entries/ab/{KEY}/{'0' * 64}", b"1")
    host.remote.storage.write(name_manifest(host), json.dumps({"files": {"../../../outside": "0" * 64}}).encode())


DAMAGES: dict[str, Callable[[Host], object]] = {
    "altered": lambda host: host.remote.storage.write(name_weights(host), b"weighty" * 100),
    "missing": lambda host: host.remote.storage.remove(name_weights(host)),
    "empty": lambda host: host.remote.storage.write(name_manifest(host), b""),
    "html": lambda host: host.remote.storage.write(name_manifest(host), b"<html>"),
    "path": write_path,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_ensure_replaces_a_damaged_entry(url: str, tmp_path: Path, damage: str) -> None:
    first, second = Host(tmp_path / "a", url), Host(tmp_path / "b", url)
    first.ensure()
    first.store.close()
    DAMAGES[damage](first)
    assert not second.ensure()
    second.store.close()
    assert second.lines == [f"{url} holds a damaged {KEY[:12]}. It is made here, and replaced."]
    assert not list(tmp_path.rglob("outside"))
    third = Host(tmp_path / "c", url)
    assert third.ensure()
    assert third.lines == []


@pytest.mark.parametrize("fault", ["refuse", "stall", "html", "skewed", "full"])
def test_ensure_goes_on_without_the_remote_store(url: str, tmp_path: Path, proxy: FaultProxy, fault: str) -> None:
    host = Host(tmp_path / "a", url, timeout_s=2)
    host.ensure()
    proxy.fault = fault
    for number in range(3):
        assert not host.ensure(key=f"cd{number:062d}")
        host.store.finish_uploads()  # as before latency is timed
    host.store.close()
    assert len(host.lines) == 2, host.lines
    assert host.lines[0].startswith(f"{url} ") and host.lines[0].endswith("The run goes on with the local store.")
    assert re.fullmatch(
        rf"Not uploaded to {url}: \d results\. Later: lightexp store push store\.remote={url}", host.lines[1]
    )
    assert all(host.store.check(f"cd{number:062d}") for number in range(3))


def test_ensure_fetches_what_it_may_only_read(url: str, tmp_path: Path, proxy: FaultProxy) -> None:
    first = Host(tmp_path / "a", url)
    first.ensure()
    first.store.close()
    proxy.fault = "denied"
    second = Host(tmp_path / "b", url)
    assert not second.ensure(key="cd" + "0" * 62)
    assert second.ensure()
    second.store.close()
    assert len(second.lines) == 2, second.lines
    assert "denies access" in second.lines[0]


def test_hosts_that_make_the_same_keep_one_result(url: str, tmp_path: Path) -> None:
    first, second = Host(tmp_path / "a", url), Host(tmp_path / "b", url)

    def overtake() -> None:
        first.remote.storage.remove(f"leases/{KEY}")
        second.ensure()
        second.store.close()

    assert not first.ensure(overtake)
    first.store.close()
    assert (first.made, second.made) == (1, 1)
    assert first.lines == second.lines == []
    assert Host(tmp_path / "c", url).ensure()
    assert len(first.remote.list_entries()[KEY]) == 3  # of one entry: weights, digest and manifest


def test_connect_refuses_what_nobody_can_use(url: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such bucket"):
        Host(tmp_path, "s3://nobody-has-it/x")
    with pytest.raises(BadInput, match="without a user"):
        Host(tmp_path, "s3://me:secret@bucket/x")
    host = Host(tmp_path, url)
    host.remote.storage.write(MARKER, b'{"format": 2}')
    with pytest.raises(BadInput, match="format 2"):
        Host(tmp_path, url)
