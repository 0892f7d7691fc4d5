"""The remote store behind local ones: an S3 server on loopback, hosts that share nothing else, and faults."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.errors import BadInput
from lightexp.core.object_storage import ObjectStorage
from lightexp.core.remote_gc import find_garbage, read_storage_clock, remove_garbage
from lightexp.core.remote_lease import RemoteLeases
from lightexp.core.remote_store import MARKER, RemoteStore
from lightexp.core.store import Store
from lightexp.core.store_entry import MANIFEST
from lightexp.core.store_sync import StoreSync
from tests.object_server import FaultProxy, inject_faults, serve_s3

pytest.importorskip("s3fs")
boto3 = pytest.importorskip("boto3")

KEY = "ab" + "0" * 62
NUMBERS = iter(range(1_000))
EXPIRY_S = 1.5
DAY_S = 86_400.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    """A proxy before a server with one bucket, `bucket`; the environment has its credentials and address."""
    pytest.importorskip("moto")
    with (
        serve_s3(tmp_path_factory.mktemp("s3")) as port,
        inject_faults(port) as proxy,
        pytest.MonkeyPatch.context() as p,
    ):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            p.setenv(name, "test")
        p.setenv("AWS_DEFAULT_REGION", "us-east-1")
        p.setenv("AWS_MAX_ATTEMPTS", "1")
        p.setenv("AWS_ENDPOINT_URL", proxy.url)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield proxy


@pytest.fixture
def proxy(server: FaultProxy) -> Iterator[FaultProxy]:
    """The proxy, which has no fault after the test."""
    yield server
    server.mend()


@pytest.fixture
def url(server: FaultProxy) -> str:
    return f"s3://bucket/{next(NUMBERS)}"


def write_weights(folder: Path) -> dict[str, Any]:
    (folder / "model.tflite").write_bytes(b"weights" * 100)
    return {"loss": 0.5}


class Host:
    """A user's folder on one host, and what the user is told."""

    def __init__(self, folder: Path, url: str, timeout_s: float = 20.0, expiry_s: float = EXPIRY_S) -> None:
        self.lines: list[str] = []
        self.made = 0
        storage = ObjectStorage(url, timeout_s)
        self.remote = RemoteStore(storage)
        self.sync = StoreSync(self.remote, RemoteLeases(storage, expiry_s), self.lines.append)
        self.sync.connect()
        self.store = Store(folder, self.sync)

    def ensure(self, then: Callable[[], Any] = lambda: None, key: str = KEY) -> bool:
        """Need an entry; return whether it existed. `then` is called while it is being made."""

        def make(folder: Path) -> dict[str, Any]:
            self.made += 1
            then()
            return write_weights(folder)

        entry, existed = self.store.ensure(key, "a", make, lambda: self.lines.append("waits"))
        assert (entry.folder / "model.tflite").read_bytes() == b"weights" * 100
        assert entry.facts == {"loss": 0.5}
        return existed


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


def test_a_failed_make_leaves_no_lease(url: str, tmp_path: Path) -> None:
    first, second = Host(tmp_path / "a", url), Host(tmp_path / "b", url)
    with pytest.raises(ZeroDivisionError):
        first.ensure(lambda: 1 / 0)
    assert not list(first.remote.storage.list_objects("leases"))
    assert not second.ensure()
    assert second.lines == []


def test_a_host_killed_in_mid_upload_leaves_no_entry(url: str, tmp_path: Path, proxy: FaultProxy) -> None:
    code = """
import sys, os
from pathlib import Path
from tests.core.test_store_sync import Host, KEY
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


def test_a_large_file_is_uploaded_in_parts(url: str, tmp_path: Path) -> None:
    first, second = Host(tmp_path / "a", url), Host(tmp_path / "b", url)

    def make(folder: Path) -> dict[str, Any]:
        with (folder / "weights.bin").open("wb") as file:
            file.truncate(40_000_000)
        return {}

    first.store.ensure(KEY, "a", make)
    first.store.close()
    assert second.store.find(KEY)
    assert first.lines == second.lines == []
    assert first.remote.storage.list_uploads() == []


def collect(host: Host, now: float, named: Callable[[], set[str]] = set) -> list[str]:
    """Remove what no record names at a time; return the keys of the entries that are gone."""
    gone: list[str] = []
    garbage = find_garbage(host.remote, set, None, None, now)
    remove_garbage(host.remote, garbage, named, lambda item: gone.append(item.key))
    return gone


def test_gc_removes_what_nothing_needs(url: str, tmp_path: Path) -> None:
    host, keys = Host(tmp_path / "a", url), [f"{number:064x}" for number in range(3)]
    for key in keys:
        host.ensure(key=key)
    host.store.close()
    storage = host.remote.storage
    storage.write(f"entries/00/{keys[0]}/{'f' * 64}", b"of another host's manifest, which this one has replaced")
    storage.write("leases/dead", b"of a process that was killed")
    count = len(list(storage.list_objects("")))
    assert collect(host, time.time()) == []
    assert len(list(storage.list_objects(""))) == count
    later = time.time() + 2 * DAY_S
    garbage = find_garbage(host.remote, lambda: {keys[0]}, None, None, later)
    assert [len(garbage.entries), len(garbage.files), len(garbage.leases), garbage.uploads] == [2, 1, 1, []]
    for _ in range(2):  # as two hosts do at once
        remove_garbage(host.remote, garbage, lambda: {keys[1]}, lambda item: None)
    assert set(host.remote.list_entries()) == {keys[0], keys[1]}  # a record of the second has just been written
    assert len(list(storage.list_objects(""))) == 1 + 2 * 3
    assert Host(tmp_path / "b", url).ensure(key=keys[0])


def test_storage_clock_is_read(url: str, tmp_path: Path) -> None:
    host = Host(tmp_path, url)
    assert abs((read_storage_clock(host.remote) or 0.0) - time.time()) < 60
    assert list(host.remote.storage.list_objects("")) == []


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
    host.store.close()
    assert len(host.lines) == 2, host.lines
    assert host.lines[0].startswith(f"{url} ") and host.lines[0].endswith("The run goes on with the local store.")
    assert "uploads to" in host.lines[1]
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


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("skewed", "denies access: this host's clock differs by 6"),
        ("region", "denies access: its region is eu-north-1. Set AWS_DEFAULT_REGION=eu-north-1."),
        ("unknown", "denies access (The key does not exist)"),
    ],
)
def test_connect_says_what_a_refusal_means(
    url: str, tmp_path: Path, proxy: FaultProxy, fault: str, problem: str
) -> None:
    proxy.fault = fault
    with pytest.raises(BadInput) as refusal:
        Host(tmp_path, url)
    assert f"{url} {problem}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


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
