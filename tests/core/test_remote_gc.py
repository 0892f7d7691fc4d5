"""What a remote store on an S3 server no longer needs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from lightexp.core.errors import BadInput
from lightexp.core.object_storage import ObjectStorage, StorageUnavailable
from lightexp.core.remote_gc import find_garbage, read_storage_clock, remove_garbage
from lightexp.core.remote_store import MARKER, RemoteStore
from lightexp.core.store_entry import MANIFEST
from tests.core.remote_hosts import DAY_S, KEY, Host, collect
from tests.object_server import FaultProxy


def test_gc_removes_what_nothing_needs(url: str, tmp_path: Path) -> None:
    host, keys = Host(tmp_path / "a", url), [f"{number:064x}" for number in range(3)]
    for key in keys:
        host.ensure(key=key)
    host.store.close()
    storage = host.remote.storage
    storage.write(f"entries/00/{keys[0]}/{'f' * 64}", b"of another host's manifest, which this one has replaced")
    storage.write("leases/dead", b"of a process that was killed")
    storage.write("calls/dead/done/task.json", b"of a command that was killed")
    count = len(list(storage.list_objects("")))
    assert collect(host, time.time()) == []
    assert len(list(storage.list_objects(""))) == count
    later = time.time() + 2 * DAY_S
    garbage = find_garbage(host.remote, lambda: {keys[0]}, None, None, later)
    assert [len(garbage.entries), len(garbage.files), len(garbage.leftovers), garbage.uploads] == [2, 1, 2, []]
    for _ in range(2):  # as two hosts do at once
        remove_garbage(host.remote, garbage, lambda: {keys[1]}, lambda item: None)
    assert set(host.remote.list_entries()) == {keys[0], keys[1]}  # a record of the second has just been written
    assert len(list(storage.list_objects(""))) == 1 + 2 * 3
    assert Host(tmp_path / "b", url).ensure(key=keys[0])


def test_gc_keeps_what_a_command_of_days_has_noted(tmp_path: Path) -> None:
    storage, outcomes = ObjectStorage(f"file://{tmp_path}"), {}
    for call in ("dead", "writes", "computes"):
        for task in ("first", "second"):
            outcomes[call, task] = tmp_path / f"calls/{call}/done/{task}.json"
            storage.write(f"calls/{call}/done/{task}.json", b"null")
    storage.write("leases/computes-third", b"of a worker")
    old = time.time() - 2 * DAY_S
    for (call, task), path in outcomes.items():
        if (call, task) != ("writes", "second"):
            os.utime(path, (old, old))
    garbage = find_garbage(RemoteStore(storage), set, None, None, time.time())
    assert sorted(stored.name for stored in garbage.leftovers) == [
        "calls/dead/done/first.json",
        "calls/dead/done/second.json",
    ]


def test_storage_clock_is_read(url: str, tmp_path: Path) -> None:
    host = Host(tmp_path, url)
    assert abs((read_storage_clock(host.remote) or 0.0) - time.time()) < 60
    assert list(host.remote.storage.list_objects("")) == []


def test_a_proxys_page_is_no_empty_listing(url: str, tmp_path: Path, proxy: FaultProxy) -> None:
    host = Host(tmp_path, url)
    assert (host.remote.list_entries(), list(host.remote.list_records())) == ({}, [])
    proxy.fault = "html"
    with pytest.raises(StorageUnavailable, match="a proxy may have answered"):
        host.remote.list_entries()
    with pytest.raises(StorageUnavailable, match="a proxy may have answered"):
        list(host.remote.list_records())


def test_what_is_no_record_is_not_listed(tmp_path: Path) -> None:
    storage = ObjectStorage(f"file://{tmp_path}")
    for name in ("run.json", ".DS_Store", "folder/run.json"):
        storage.write(f"records/{name}", b"{}")
    assert list(RemoteStore(storage).list_records()) == ["run"]


def test_a_local_store_is_no_remote_one(tmp_path: Path) -> None:
    host = Host(tmp_path / "a", f"file://{tmp_path / 'remote'}")
    host.ensure()
    with pytest.raises(BadInput, match="has entries, but no lightexp-store"):
        Host(tmp_path / "b", f"file://{tmp_path / 'a'}")
    host.store.close()
    Host(tmp_path / "c", host.remote.url)


@pytest.mark.parametrize("name", ["a" * 256, "\ud800", "..", "folder/file"])
def test_a_manifest_with_impossible_names_is_damaged(tmp_path: Path, name: str) -> None:
    host, folder = Host(tmp_path / "a", f"file://{tmp_path / 'remote'}"), f"entries/ab/{KEY}"
    host.remote.storage.write(MARKER, b'{"format": 1}')
    host.remote.storage.write(f"{folder}/{'0' * 64}", b"1")
    host.remote.storage.write(f"{folder}/{MANIFEST}", json.dumps({"files": {name: "0" * 64}}).encode())
    assert not host.ensure()
    host.store.close()
    assert host.lines == [f"{host.remote.url} holds a damaged {KEY[:12]}. It is made here, and replaced."]


def test_a_manifest_without_end_stops_nothing(tmp_path: Path) -> None:
    host, other = Host(tmp_path / "a", f"file://{tmp_path / 'remote'}"), "cd" + "0" * 62
    for key in (KEY, other):
        host.ensure(key=key)
    host.store.close()
    os.truncate(tmp_path / "remote" / "entries" / "ab" / KEY / MANIFEST, 64_000_001)
    for key, state in ((KEY, "damaged"), (other, "sound")):
        (tmp_path / key).mkdir()
        assert host.remote.fetch(key, tmp_path / key) == state
    garbage = find_garbage(host.remote, lambda: {KEY, other}, None, None, time.time() + 2 * DAY_S)
    assert (garbage.entries, garbage.files, garbage.unreadable) == ([], [], [KEY])
