"""Locks between processes and hosts, by files of a shared folder; those of a server are in `postgres_locks`.

A lock dies with its owner, so that work that is marked as running and whose lock is free was left by a dead process.
"""

from __future__ import annotations

import fcntl
import os
import random
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lightexp.core.remote_lease import Leases

_HOLD_POLL_S = 0.1


class Locks(ABC):
    """A family of locks, each named by a number. They die with the process that has acquired them."""

    @abstractmethod
    def acquire(self, key: int) -> bool:
        """Acquire a lock without waiting; return False if another process has it."""

    def acquire_first(self, keys: Sequence[int]) -> int | None:
        """Acquire the first of some locks that no other process has, and return its key; None if others have all."""
        return next((key for key in keys if self.acquire(key)), None)

    @abstractmethod
    def release(self, key: int) -> None:
        """Release a lock; nothing happens if this object has not acquired it."""

    @abstractmethod
    def exclusive(self) -> AbstractContextManager[None]:
        """Wait for, then hold, the one lock that protects all others' bookkeeping."""

    def is_free(self, key: int) -> bool:
        """Return whether no process has a lock."""
        if not self.acquire(key):
            return False
        self.release(key)
        return True

    @contextmanager
    def hold(self, key: int) -> Iterator[None]:
        """Wait for a lock, then hold it."""
        while not self.acquire(key):
            time.sleep(_HOLD_POLL_S)
        try:
            yield
        finally:
            self.release(key)


class FileLocks(Locks):
    """Locks on files of one folder, which every host that shares it sees."""

    def __init__(self, folder: Path) -> None:
        """Lock nothing yet; the folder is created with the first lock."""
        self._folder = folder
        self._held: dict[int | str, FileLock] = {}

    def acquire(self, key: int | str) -> bool:
        """See `Locks.acquire`; a key may be text that is a file name."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._make_path(key), thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self._held[key] = lock
        return True

    def acquire_first(self, keys: Sequence[int]) -> int | None:
        """See `Locks.acquire_first`."""
        return super().acquire_first([key for key in keys if not self._is_held(key)])

    def release(self, key: int | str) -> None:
        """See `Locks.release`."""
        if lock := self._held.pop(key, None):
            self._make_path(key).unlink(missing_ok=True)
            lock.release()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See `Locks.exclusive`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with hold_file(self._folder / "turn.lock"):
            yield

    def _is_held(self, key: int) -> bool:
        """Return whether a process has a lock: a look at its file takes a tenth of the time of `acquire`."""
        try:
            descriptor = os.open(self._make_path(key), os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # no process has created it, or `acquire` says what is wrong
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _make_path(self, key: int | str) -> Path:
        return self._folder / f"{key}.lock"


@contextmanager
def hold_file(path: Path) -> Iterator[None]:
    """Wait for a file's lock, then hold it, among processes and threads; not twice in one thread.

    The system wakes the one that is next. `FileLock` polls, so that many that wait for a lock of milliseconds keep the
    processor busy.
    """
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class StoreLeases(Leases):
    """Leases of store keys among the workers of a study, by its locks: a lease dies with its owner at once."""

    def __init__(self, locks: Locks) -> None:
        """Hold nothing yet; other locks of the same family must have smaller numbers than 2^30."""
        self._locks = locks
        self._held: set[int] = set()

    def acquire(self, key: str) -> bool:
        """See `Leases.acquire`."""
        number = _number_key(key)
        if number not in self._held and self._locks.acquire(number):
            self._held.add(number)
        return number in self._held

    def release(self, key: str) -> None:
        """See `Leases.release`."""
        self._held.discard(_number_key(key))
        self._locks.release(_number_key(key))

    expire = release


def _number_key(key: str) -> int:
    """Return the number of a store key's lock; two keys with the same number wait for each other, no more."""
    return 2**30 + int(key[:7], 16)


class CommandLease:
    """Locks by which workers on any host know whether the command that has started them goes on.

    The command holds one lock while workers may claim tasks and another while they may finish what they have claimed.
    Both die with it.
    """

    def __init__(self, locks: Locks, key: int | None = None) -> None:
        """Hold nothing yet.

        Args:
            locks: Locks that the command and its workers share.
            key: The command's key, in a worker. Defaults to a new one.
        """
        self._locks = locks
        self.key = -random.SystemRandom().randrange(10, 2**31 - 2, 2) if key is None else key

    def hold_accepting(self) -> AbstractContextManager[None]:
        """Let workers claim tasks."""
        return self._locks.hold(self.key)

    def hold_alive(self) -> AbstractContextManager[None]:
        """Let workers finish their tasks."""
        return self._locks.hold(self.key - 1)

    @property
    def is_accepting(self) -> bool:
        """Whether the command wants workers to claim tasks."""
        return not self._locks.is_free(self.key)

    @property
    def is_alive(self) -> bool:
        """Whether the command waits for tasks that have been claimed."""
        return not self._locks.is_free(self.key - 1)


def host_lock() -> FileLock:
    """Return the lock of whatever measures time on this host, shared by all users."""
    return FileLock(Path(tempfile.gettempdir()) / "lightexp-latency.lock", mode=0o666)
