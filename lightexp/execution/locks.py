"""Locks between processes and hosts: files in a shared folder, or advisory locks of a PostgreSQL server.

A lock dies with its owner, so that work that is marked as running and whose lock is free was left by a dead process.
"""

from __future__ import annotations

import fcntl
import random
import tempfile
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from lightexp.core.remote_lease import Leases

_HOLD_POLL_S = 0.1
_RETRY_S = 1.0
_RECOVERY_S = 5.0  # after an outage, in which the living acquire their locks again
_EXCLUSIVE_KEY = -1
_WAIT_FOR_LOCK = "select 1 from pg_advisory_lock(hashtext(%s), %s)"
_Result = TypeVar("_Result")


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
        lock = FileLock(self._path(key), thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self._held[key] = lock
        return True

    def release(self, key: int | str) -> None:
        """See `Locks.release`."""
        if lock := self._held.pop(key, None):
            self._path(key).unlink(missing_ok=True)
            lock.release()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See `Locks.exclusive`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with hold_file(self._folder / "turn.lock"):
            yield

    def _path(self, key: int | str) -> Path:
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


class OutageReporter:
    """Waits between two tries of a service that does not answer, and reports its outage once."""

    def __init__(self, service: str, report: Callable[[str], None]) -> None:
        """Report nothing yet.

        Args:
            service: The service's name, at the start of a sentence.
            report: Called with each line for the user.
        """
        self._service, self._report = service, report
        self._is_out = False

    def wait(self, error: BaseException) -> None:
        """Report an outage, unless it has been reported, and sleep for a second."""
        if not self._is_out:
            self._report(f"{self._service} has gone away ({_first_line(error)}). Waiting for it.")
        self._is_out = True
        time.sleep(_RETRY_S)

    def end(self) -> None:
        """Report that the service answers, if an outage has been reported."""
        if self._is_out:
            self._is_out = False
            self._report(f"{self._service} is back.")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class PostgresLocks(Locks):
    """Advisory locks of one connection to a PostgreSQL server, which drops them when that connection ends.

    An outage is waited for; the locks are acquired again after it.
    """

    def __init__(self, url: str, namespace: str, outage: OutageReporter, waits: bool = False) -> None:
        """Connect to the server.

        Args:
            url: The server's, as libpq takes it.
            namespace: Text that the locks share; those of another namespace are others.
            outage: Waits for the server.
            waits: Whether to wait for a server that cannot be reached now. Defaults to False.

        Raises:
            ImportError: If psycopg is not installed.
            ConnectionError: If the server cannot be reached.
        """
        import psycopg

        self._psycopg, self._url, self._namespace, self._outage = psycopg, url, namespace, outage
        self._held: set[int] = set()
        self._is_exclusive = False
        self._lock = threading.RLock()
        try:
            self._connection = self._connect()
        except psycopg.Error as error:
            if not waits:
                raise ConnectionError(_first_line(error)) from None
            self._recover(error)
        threading.Thread(target=_watch_connection, args=[weakref.ref(self)], daemon=True).start()

    def __del__(self) -> None:
        """Close the connection."""
        with suppress(AttributeError):  # if it was never connected
            self._connection.close()

    def acquire(self, key: int) -> bool:
        """See `Locks.acquire`."""
        with self._lock:
            acquired = self._try_lock(key)
            if acquired:
                self._held.add(key)
            return acquired

    def acquire_first(self, keys: Sequence[int]) -> int | None:
        """See `Locks.acquire_first`."""
        statement = (
            "select min(key) from (select key from unnest(%s::int[]) as keys (key)"
            " where pg_try_advisory_lock(hashtext(%s), key) limit 1) as acquired"
        )
        with self._lock:  # an outage in the middle would lose a lock that is not in `_held` yet
            key: int | None = self._query(statement, (list(keys), self._namespace)) if keys else None
            if key is not None:
                self._held.add(key)
            return key

    def release(self, key: int) -> None:
        """See `Locks.release`."""
        with self._lock:
            if key in self._held:
                self._held.discard(key)
                self._unlock(key)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See `Locks.exclusive`; the server wakes the processes that wait, in the order of their arrival."""
        try:
            self._query(_WAIT_FOR_LOCK, (self._namespace, _EXCLUSIVE_KEY))
            self._is_exclusive = True
            yield
        finally:  # also after an interrupt that came when the lock had just been acquired
            self._is_exclusive = False
            self._unlock(_EXCLUSIVE_KEY)

    def run(self, work: Callable[[Any], _Result]) -> _Result:
        """Return what a function returns for the connection; it is called again after an outage.

        Args:
            work: Takes a psycopg connection, on which each statement outside of a transaction is one of its own.
        """
        with self._lock:
            while True:
                try:
                    return work(self._connection)
                except (self._psycopg.OperationalError, self._psycopg.InterfaceError) as error:
                    self._recover(error)

    def check_connection(self) -> None:
        """Query the server, so that an outage is noticed, waited for and recovered from."""
        self._query("select 1")

    def _try_lock(self, key: int) -> bool:
        return bool(self._query("select pg_try_advisory_lock(hashtext(%s), %s)", (self._namespace, key)))

    def _unlock(self, key: int) -> None:
        self._query("select pg_advisory_unlock(hashtext(%s), %s)", (self._namespace, key))

    def _connect(self) -> Any:
        connection = self._psycopg.connect(self._url, connect_timeout=5, autocommit=True)
        # A host that has vanished is noticed within a minute; who waits for a lock does so without limit.
        for setting in ("tcp_keepalives_idle = 15", "tcp_keepalives_interval = 15", "statement_timeout = 0"):
            with suppress(self._psycopg.Error):
                connection.execute(f"set {setting}")
        return connection

    def _query(self, statement: str, parameters: tuple[Any, ...] | None = None) -> Any:
        return self.run(lambda connection: connection.execute(statement, parameters).fetchone()[0])

    def _recover(self, error: Exception) -> None:
        """Wait for the server, reconnect and acquire the locks again; give others the time to do so too."""
        while True:
            self._outage.wait(error)
            try:
                self._connection = self._connect()
                for key in self._held:
                    statement = "select pg_try_advisory_lock(hashtext(%s), %s)"
                    self._connection.execute(statement, (self._namespace, key)).fetchone()
                if self._is_exclusive:
                    self._connection.execute(_WAIT_FOR_LOCK, (self._namespace, _EXCLUSIVE_KEY)).fetchone()
                break
            except self._psycopg.Error as next_error:
                error = next_error
        self._outage.end()
        time.sleep(_RECOVERY_S)


def _watch_connection(reference: weakref.ref[PostgresLocks]) -> None:
    """Notice an outage while a task runs, during which nothing else queries the server."""
    while (locks := reference()) is not None:
        locks.check_connection()
        del locks
        time.sleep(_RECOVERY_S / 5)


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
