"""Where a study is kept: a journal file or a PostgreSQL database, patient with either, and who works on which trial."""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend

from lightexp.core.errors import BadInput

JOURNAL = "journal.log"
_BEGINNING = b'{"op_code":'
_PATIENCE = 1.0  # seconds between two tries
_POLL = 0.002  # seconds between two looks at a lock that is held for milliseconds
_GRACE = 5.0  # seconds after an outage in which the living take their trials again


class TrialLocks(ABC):
    """Who works on which trial. A claim dies with its owner, so that what is running and unclaimed was left."""

    @abstractmethod
    def acquire(self, number: int) -> bool:
        """Claims a trial; False where another has it."""

    @abstractmethod
    def release(self, number: int) -> None:
        """Gives a claim up."""

    @abstractmethod
    def exclusive(self) -> Any:
        """A context that one worker at a time is in."""


def open_storage(
    where: str | None, folder: Path, study: str, say: Callable[[str], None]
) -> tuple[BaseStorage, TrialLocks]:
    """Opens a study's storage.

    Args:
        where: `search.storage`.
        folder: The study's folder.
        study: Its name.
        say: Takes each line for the user, when the storage goes away and comes back.

    Raises:
        BadInput: If it is of another kind or cannot be reached.
    """
    wait = _Wait(say)
    if where is None or not _parts(where).scheme:
        path = Path(resolve_address(where, folder))
        if path.is_dir():
            raise BadInput(f"search.storage: {where} is a folder. Name a file in it, such as {where}/{JOURNAL}.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            journal: BaseStorage = JournalStorage(_Journal(path))
        except (OSError, ValueError) as error:
            raise BadInput(f"search.storage: {path} cannot be used: {error}. Name another journal file.") from None
        patient = _RetryingStorage(journal, wait)  # type: ignore[abstract]
        return patient, _FileClaims(path.with_name(f".{path.name}-{study}"), wait)
    parts = _parts(where)
    if parts.scheme not in ("postgresql", "postgres"):
        raise BadInput(f"search.storage must be a journal file or postgresql://HOST/DATABASE. Received: {where}.")
    if parts.password:
        raise BadInput("search.storage holds a password, which every record would show. Set PGPASSWORD instead.")
    claims = _PostgresClaims(parts._replace(scheme="postgresql").geturl(), study, wait)
    engine = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 5}}
    rdb = RDBStorage(resolve_address(where, folder), engine_kwargs=engine)
    patient = _RetryingStorage(get_storage(rdb), wait)  # type: ignore[abstract]
    weakref.finalize(patient, _closed, rdb)
    return patient, claims


def resolve_address(where: str | None, folder: Path) -> str:
    """The storage as Optuna names it: a journal file, or SQLAlchemy's URL."""
    if where is None or not _parts(where).scheme:
        return str(Path(where).expanduser().absolute() if where else folder / JOURNAL)
    return _parts(where)._replace(scheme="postgresql+psycopg").geturl()


def _parts(where: str) -> SplitResult:
    try:
        return urlsplit(where)
    except ValueError as error:
        raise BadInput(f"search.storage: {where} cannot be read: {error}. Name a journal file or a URL.") from None


def _closed(storage: RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


def count_trials(where: str | None, folder: Path, study: str) -> int:
    """How many trials of a study there are; makes nothing."""
    if (where is None or not _parts(where).scheme) and not Path(resolve_address(where, folder)).exists():
        return 0
    kept, _ = open_storage(where, folder, study, print)
    names = {found.study_name: found._study_id for found in kept.get_all_studies()}
    return len(kept.get_all_trials(names[study])) if study in names else 0


class _Wait:
    """Waits for a storage that has gone away, and says so once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._gone = say, False

    def __call__(self, error: Exception) -> None:
        if not self._gone:
            self._say(f"The study's storage has gone away ({str(error).splitlines()[0]}). Waiting for it.")
        self._gone = True
        time.sleep(_PATIENCE)

    def over(self) -> None:
        if self._gone:
            self._gone = False
            self._say("The study's storage is back.")


def _passing(error: Exception) -> bool:
    """Whether an error is the storage's being away."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError

    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    # PendingRollbackError: the connection was lost within a transaction; Optuna has rolled it back since.
    return isinstance(cause, OperationalError | InterfaceError | PendingRollbackError | OSError) or (
        isinstance(cause, DBAPIError) and cause.connection_invalidated
    )


class _RetryingStorage(BaseStorage):  # its methods are set below
    """A storage of which every call waits for it to come back."""

    def __init__(self, inner: BaseStorage, wait: _Wait) -> None:
        self._inner, self._wait = inner, wait


def _patient(name: str) -> Callable[..., Any]:
    def call(self: _RetryingStorage, *args: Any, **more: Any) -> Any:
        waited = False
        while True:
            try:
                found = getattr(self._inner, name)(*args, **more)
            except UpdateFinishedTrialError:
                if not waited or name != "set_trial_state_values":
                    raise
                found = True  # by the try whose answer was lost
            except Exception as error:
                if not _passing(error):
                    raise
                self._wait(error)
                waited = True
                continue
            self._wait.over()
            return found

    return call


for _name in (n for n in dir(BaseStorage) if not n.startswith("_")):
    setattr(_RetryingStorage, _name, _patient(_name))
_RetryingStorage.__abstractmethods__ = frozenset()


class _Journal(JournalFileBackend):
    """Optuna's journal file, mended where a process died while writing, synced to disk where a trial ends.

    Its lock dies with its owner; Optuna's own would keep the others waiting for 30 s.
    """

    def __init__(self, path: Path) -> None:
        if path.exists():
            with path.open("rb") as file:
                found = file.read(len(_BEGINNING))
            if not _BEGINNING.startswith(found):  # before it is locked and mended
                raise ValueError(f"it begins with {found!r}, as no journal does")
        super().__init__(str(path))
        self._path, self._flock = path, FileLock(f"{path}.flock", poll_interval=_POLL)
        with self._flock:
            self._mend()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends whole lines."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self._flock:
            self._mend()
            with self._path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                if any("state" in log for log in logs):
                    os.fsync(file.fileno())

    def _mend(self) -> None:
        """Cuts off a last line that was not finished: whoever wrote it was not told that it stands."""
        with self._path.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)


class _FileClaims(TrialLocks):
    def __init__(self, folder: Path, wait: _Wait) -> None:
        self._folder, self._wait = folder, wait
        self._held: dict[int, FileLock] = {}

    def acquire(self, number: int) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._folder / f"{number}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self._held[number] = lock
        return True

    def release(self, number: int) -> None:
        if lock := self._held.pop(number, None):
            (self._folder / f"{number}.lock").unlink(missing_ok=True)
            lock.release()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / "turn.lock", poll_interval=_POLL):
            yield


class _PostgresClaims(TrialLocks):
    """Advisory locks of one connection, which the server drops when that ends; taken again after an outage."""

    def __init__(self, url: str, study: str, wait: _Wait) -> None:
        try:
            import psycopg
        except ImportError:
            raise BadInput("search.storage: PostgreSQL needs psycopg: pip install 'lightexp[postgresql]'.") from None
        self._psycopg, self._url, self._study, self._wait = psycopg, url, study, wait
        self._held: set[int] = set()
        self._lock = threading.RLock()
        try:
            self._connection = self._connected()
        except psycopg.Error as error:
            words = str(error).strip().splitlines()[0]
            raise BadInput(f"search.storage: {url} cannot be reached: {words}. Is the server up?") from None
        threading.Thread(target=_keep, args=[weakref.ref(self)], daemon=True).start()

    def __del__(self) -> None:
        with suppress(AttributeError):  # if it was never connected
            self._connection.close()

    def acquire(self, number: int) -> bool:
        taken = bool(self._ask("select pg_try_advisory_lock(hashtext(%s), %s)", number))
        if taken:
            self._held.add(number)
        return taken

    def release(self, number: int) -> None:
        if number in self._held:
            self._held.discard(number)
            self._ask("select pg_advisory_unlock(hashtext(%s), %s)", number)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        while not self._ask("select pg_try_advisory_lock(hashtext(%s), %s)", -1):
            time.sleep(0.05)
        try:
            yield
        finally:
            self._ask("select pg_advisory_unlock(hashtext(%s), %s)", -1)

    def _connected(self) -> Any:
        connection = self._psycopg.connect(self._url, connect_timeout=5, autocommit=True)
        for setting in ("idle", "interval"):  # a host that is gone is noticed within a minute
            with suppress(self._psycopg.Error):
                connection.execute(f"set tcp_keepalives_{setting} = 15")
        return connection

    def _ask(self, words: str, number: int | None = None) -> Any:
        with self._lock:
            while True:
                try:
                    given = None if number is None else (self._study, number)
                    return self._connection.execute(words, given).fetchone()[0]
                except self._psycopg.Error as error:
                    self._again(error)

    def _again(self, error: Exception) -> None:
        """Waits for the server, connects and takes what was held; gives others the time to do so, too."""
        while True:
            self._wait(error)
            try:
                self._connection = self._connected()
                for number in self._held:
                    self._connection.execute(
                        "select pg_try_advisory_lock(hashtext(%s), %s)", (self._study, number)
                    ).fetchone()
                break
            except self._psycopg.Error as another:
                error = another
        self._wait.over()
        time.sleep(_GRACE)


def _keep(claims: weakref.ref[_PostgresClaims]) -> None:
    """Notices an outage while a trial is being worked on, when nothing else would be asked."""
    while (held := claims()) is not None:
        held._ask("select 1")
        del held
        time.sleep(_GRACE / 5)
