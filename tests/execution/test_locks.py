"""Locks on files, and the lease by which workers know whether their command goes on."""

from __future__ import annotations

import threading
from pathlib import Path

from lightexp.execution.locks import CommandLease, FileLocks, StoreLeases


def test_file_locks_keep_other_owners_out(tmp_path: Path) -> None:
    mine, other = FileLocks(tmp_path / "locks"), FileLocks(tmp_path / "locks")
    assert mine.acquire("a-name")
    assert not other.acquire("a-name")
    assert other.acquire(7)
    other.release("a-name")  # is not its own
    assert not other.is_free("a-name")
    mine.release("a-name")
    assert other.is_free("a-name")
    other.release(7)
    assert not list((tmp_path / "locks").iterdir())


def test_first_free_lock_is_acquired(tmp_path: Path) -> None:
    mine, other = FileLocks(tmp_path), FileLocks(tmp_path)
    assert other.acquire(1)
    assert mine.acquire_first([1, 2, 3]) == 2
    assert other.acquire_first([2, 3]) == 3
    assert mine.acquire_first([1, 3]) is None
    assert mine.acquire_first([]) is None
    (tmp_path / "4.lock").touch()  # its owner has died
    assert mine.acquire_first([1, 3, 4]) == 4
    assert not other.acquire(4)


def test_file_lock_is_released_by_another_thread(tmp_path: Path) -> None:
    locks = FileLocks(tmp_path)
    thread = threading.Thread(target=locks.acquire, args=[1])
    thread.start()
    thread.join()
    locks.release(1)
    assert FileLocks(tmp_path).acquire(1)


def test_hold_waits_for_the_lock(tmp_path: Path) -> None:
    mine, other = FileLocks(tmp_path), FileLocks(tmp_path)
    assert other.acquire(1)
    is_held = threading.Event()

    def hold() -> None:
        with mine.hold(1):
            is_held.set()

    thread = threading.Thread(target=hold)
    thread.start()
    assert not is_held.wait(0.3)
    other.release(1)
    assert is_held.wait(30)
    thread.join()
    assert other.is_free(1)


def test_store_leases_keep_other_owners_out(tmp_path: Path) -> None:
    locks = FileLocks(tmp_path)
    mine, other = StoreLeases(locks), StoreLeases(FileLocks(tmp_path))
    key = "f" * 64
    assert mine.acquire(key) and mine.acquire(key)
    assert not other.acquire(key)
    assert other.acquire("e" * 64)
    other.release(key)  # is not its own
    assert not FileLocks(tmp_path).is_free(2**30 + 2**28 - 1)  # the largest number; trials have smaller ones
    mine.release(key)  # once, however often it was acquired
    assert locks.is_free(2**30 + 2**28 - 1)
    assert other.acquire(key)


def test_lease_tells_workers_to_drain_and_to_stop(tmp_path: Path) -> None:
    lease = CommandLease(FileLocks(tmp_path))
    seen_by_worker = CommandLease(FileLocks(tmp_path), lease.key)
    assert (seen_by_worker.is_accepting, seen_by_worker.is_alive) == (False, False)
    with lease.hold_alive():
        with lease.hold_accepting():
            assert (seen_by_worker.is_accepting, seen_by_worker.is_alive) == (True, True)
        assert (seen_by_worker.is_accepting, seen_by_worker.is_alive) == (False, True)
    assert (seen_by_worker.is_accepting, seen_by_worker.is_alive) == (False, False)
    assert CommandLease(FileLocks(tmp_path)).key != lease.key
