"""Leases of a remote store: lost answers, and leases of dead processes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.object_storage import ObjectStorage, StorageUnavailable
from lightexp.core.remote_lease import RemoteLeases
from tests.core.remote_hosts import KEY, Host


def test_a_lease_is_held_after_the_lost_answer_to_its_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leases, write = RemoteLeases(ObjectStorage(f"file://{tmp_path}")), ObjectStorage.write

    def write_without_answer(*arguments: Any, **options: Any) -> None:
        write(*arguments, **options)
        raise StorageUnavailable("no answer in 20 s")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStorage, "write", write_without_answer)
        with pytest.raises(StorageUnavailable):
            leases.acquire(KEY)
    assert leases.acquire(KEY)
    assert not RemoteLeases(ObjectStorage(f"file://{tmp_path}")).acquire(KEY)


def test_a_lease_outlives_the_lost_answer_to_a_renewal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, write, numbers = ObjectStorage(f"file://{tmp_path}"), ObjectStorage.write, iter(range(1_000))
    is_renewed = threading.Event()

    def write_and_fail_once(*arguments: Any, **options: Any) -> None:
        write(*arguments, **options)
        number = next(numbers)
        if number == 1:  # the first renewal
            raise StorageUnavailable("no answer in 20 s")
        if number > 1:
            is_renewed.set()

    monkeypatch.setattr(ObjectStorage, "write", write_and_fail_once)
    leases = RemoteLeases(storage, expiry_s=0.1)
    assert leases.acquire(KEY)
    assert is_renewed.wait(10)
    leases.release(KEY)
    assert not list(storage.list_objects("leases"))


def test_an_empty_lease_expires(tmp_path: Path) -> None:
    host = Host(tmp_path / "a", f"file://{tmp_path / 'remote'}", expiry_s=0.1)
    host.remote.storage.write(f"leases/{KEY}", b"")
    thread = threading.Thread(target=host.ensure, daemon=True)
    thread.start()
    thread.join(30)
    assert (host.made, host.lines) == (1, ["waits"])
