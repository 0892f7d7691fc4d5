"""Locks between hosts that are advisory locks of a PostgreSQL server."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from lightexp.core.errors import find_first_line
from lightexp.execution.locks import Locks
from lightexp.execution.outage import OutageReporter

_RECOVERY_S = 5.0  # after an outage, in which the living acquire their locks again
_EXCLUSIVE_KEY = -1
_WAIT_FOR_LOCK = "select 1 from pg_advisory_lock(hashtext(%s), %s)"
_Result = TypeVar("_Result")


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
                raise ConnectionError(find_first_line(error)) from None
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
