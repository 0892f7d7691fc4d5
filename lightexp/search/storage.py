"""Optuna storage of a study: a journal file or PostgreSQL, which retries through outages, and the trials' locks."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from lightexp.core.disk_errors import is_disk_full
from lightexp.core.errors import BadInput, format_reason
from lightexp.core.json_text import encode_json
from lightexp.core.regular_files import require_regular
from lightexp.core.secrets import find_secret
from lightexp.execution.locks import FileLocks, Locks, hold_file
from lightexp.execution.outage import OutageReporter
from lightexp.execution.postgres_locks import PostgresLocks
from lightexp.search.proposal_storage import TrialChanges

JOURNAL = "journal.log"
_JOURNAL_START = b'{"op_code":'


def open_storage(
    address: str | None,
    folder: Path,
    study: str,
    report: Callable[[str], None],
    waits: bool = False,
    follows_running: bool = True,
) -> tuple[BaseStorage, Locks]:
    """Open a study's storage and the locks of its trials, each named by a trial's number.

    Args:
        address: `search.storage`.
        folder: The study's folder.
        study: Its name.
        report: Called with a line for the user when the storage goes away and when it is back.
        waits: Whether another process has opened it, so that to wait for a server that cannot be reached makes sense.
            Defaults to False: its address may be wrong.
        follows_running: Whether to read what running trials report, as pruners do. Defaults to True.

    Raises:
        BadInput: If the storage is of another kind or cannot be reached.
    """
    outage = OutageReporter("The study's storage", report)
    if is_journal(address):
        path = Path(resolve_address(address, folder))
        journal = _open_journal(path)
        return _retry_methods(journal, outage), FileLocks(path.with_name(f".{path.name}-{study}"))
    assert address is not None
    parts = _split_url(address)
    if parts.scheme not in ("postgresql", "postgres"):
        raise BadInput(f"search.storage must be a journal file or postgresql://HOST/DATABASE. Received: {address}.")
    if place := find_secret(address):
        raise BadInput(
            f"search.storage holds {place}, which every record would show. Set PGPASSWORD instead, or use ~/.pgpass."
        )
    url = parts._replace(scheme="postgresql").geturl()
    try:
        locks = PostgresLocks(url, study, outage, waits)
    except ImportError:
        raise BadInput("search.storage: PostgreSQL needs psycopg: pip install 'lightexp[postgresql]'.") from None
    except ConnectionError as error:
        raise BadInput(f"search.storage: {url} cannot be reached: {error}. {_suggest_remedy(str(error))}") from None
    from lightexp.search.postgres_storage import PostgresStorage

    server = resolve_address(address, folder)
    with nullcontext() if waits else locks.exclusive():  # another process of the study may create the tables
        database = _retry(lambda: PostgresStorage(server, locks, follows_running, has_tables=waits), outage)
    return _retry_methods(database, outage), locks


def _suggest_remedy(reason: str) -> str:
    """Return what to do where PostgreSQL refuses a connection for a reason."""
    if "database" in reason and "does not exist" in reason:
        return "Create the database once: createdb NAME."
    if "password" in reason:
        return "Set PGPASSWORD, or write ~/.pgpass."
    return "Is the server up?"


def _open_journal(path: Path) -> JournalStorage:
    try:
        if path.exists():
            require_regular(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return _Journal(_JournalFile(path))
    except Exception as error:  # Optuna raises anything for lines that it has not written
        if is_disk_full(error):
            raise
        reason = format_reason(error)
        if not isinstance(error, OSError | ValueError):
            reason = f"{type(error).__name__}: {error}"
        raise BadInput(f"search.storage: {path} cannot be used: {reason:.200}. Name another journal file.") from None


def resolve_address(address: str | None, folder: Path) -> str:
    """Return the storage's address as Optuna takes it: a journal file's path or SQLAlchemy's URL.

    Args:
        address: `search.storage`; None is a journal file in the study's folder.
        folder: The study's folder.
    """
    if address is None:
        return str(folder / JOURNAL)
    if is_journal(address):
        return str(Path(address).expanduser().absolute())
    return _split_url(address)._replace(scheme="postgresql+psycopg").geturl()


def count_trials(address: str | None, folder: Path, study: str) -> int:
    """Count the trials of a study without creating anything; the arguments are those of `open_storage`."""
    if is_journal(address) and not Path(resolve_address(address, folder)).exists():
        return 0
    storage, _ = open_storage(address, folder, study, print)
    try:
        return storage.get_n_trials(storage.get_study_id_from_name(study))
    except KeyError:
        return 0


def is_outage(error: Exception) -> bool:
    """Return whether an error of a storage means that it does not answer at the moment."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError

    cause = _find_cause(error)
    # PendingRollbackError: the connection was lost within a transaction, which Optuna has rolled back since.
    if isinstance(cause, OSError):
        return not is_disk_full(cause)
    return isinstance(cause, OperationalError | InterfaceError | PendingRollbackError) or (
        isinstance(cause, DBAPIError) and cause.connection_invalidated
    )


def _find_cause(error: Exception) -> BaseException:
    """Return what Optuna's storage has failed of; it blames "invalid data in the commit" for every error."""
    return error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error


def is_journal(address: str | None) -> bool:
    """Return whether `search.storage` is a journal file, and no server."""
    return address is None or not _split_url(address).scheme


def _split_url(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError as error:
        raise BadInput(f"search.storage: {address} cannot be read: {error}. Name a journal file or a URL.") from None


def _retry(call: Callable[[], Any], outage: OutageReporter) -> Any:
    """Call a function until the storage answers, and return its result."""
    while True:
        try:
            result = call()
        except Exception as error:  # Optuna passes on the errors of SQLAlchemy, of the driver and of the system
            if not is_outage(error):
                raise
            outage.wait(_find_cause(error))
            continue
        outage.end()
        return result


class RetryingStorage(BaseStorage):
    """A storage whose calls wait through outages of another one. All public methods are set below."""

    def __init__(self, storage: BaseStorage, outage: OutageReporter) -> None:
        """Wrap a storage.

        Args:
            storage: The storage that is called.
            outage: Waits between two tries.
        """
        self._wrapped, self._outage = storage, outage

    def retry(self, method: str, *args: Any, **options: Any) -> Any:
        """Call a method of the wrapped storage until the storage answers."""
        tries = itertools.count(1)

        def call() -> Any:
            is_first = next(tries) == 1
            try:
                return getattr(self._wrapped, method)(*args, **options)
            except UpdateFinishedTrialError:
                if is_first or method not in ("set_trial_state_values", "write_trial"):
                    raise
                return True  # the try whose answer was lost has written it

        return _retry(call, self._outage)

    def write_trial(self, trial_id: int, changes: TrialChanges) -> None:
        """Store changes of a trial that is running.

        Raises:
            optuna.exceptions.UpdateFinishedTrialError: If it has ended; nothing is stored then.
            lightexp.search.proposal_storage.LostTrialError: If it was just created, and its server has crashed since.
        """
        self.retry("write_trial", trial_id, changes)


def _make_retrying_method(name: str) -> Callable[..., Any]:
    def method(self: RetryingStorage, *args: Any, **options: Any) -> Any:
        return self.retry(name, *args, **options)

    return method


for _name in (name for name in dir(BaseStorage) if not name.startswith("_")):
    setattr(RetryingStorage, _name, _make_retrying_method(_name))
RetryingStorage.__abstractmethods__ = frozenset()


def _retry_methods(storage: BaseStorage, outage: OutageReporter) -> BaseStorage:
    return RetryingStorage(storage, outage)  # type: ignore[abstract]  # its methods are set above


class _Journal(JournalStorage):
    """Optuna's journal storage, which writes all changes of a trial at once."""

    def __init__(self, file: _JournalFile) -> None:
        super().__init__(file)
        self._file = file

    def write_trial(self, trial_id: int, changes: TrialChanges) -> None:
        """See `RetryingStorage.write_trial`."""
        if self.get_trial(trial_id).state.is_finished():
            raise UpdateFinishedTrialError(f"Trial {trial_id} has ended.")
        with self._file.collect_logs():
            changes.write(self, trial_id)
        self._read_own_logs(trial_id)

    def _read_own_logs(self, trial_id: int) -> None:
        """Read what has been written; each line raises an error if another process has ended the trial just before."""
        try:
            self.get_trial(trial_id)
        except UpdateFinishedTrialError:
            with suppress(UpdateFinishedTrialError):
                self._read_own_logs(trial_id)
            raise


class _JournalFile(JournalFileBackend):
    """Optuna's journal file, repaired where a process died while writing and synced to disk when a trial ends.

    Its lock dies with its owner; Optuna's own lock would block the others for 30 s.
    """

    def __init__(self, path: Path) -> None:
        if path.exists():
            with path.open("rb") as file:
                start = file.read(len(_JOURNAL_START))
            if not _JOURNAL_START.startswith(start):  # checked before the file is locked and repaired
                raise ValueError(f"it begins with {start!r}, as no journal does")
        super().__init__(str(path))
        self._collected: list[dict[str, Any]] | None = None
        self._path, self._lock_path = path, Path(f"{path}.flock")
        with hold_file(self._lock_path):
            self._repair()

    @contextmanager
    def collect_logs(self) -> Iterator[None]:
        """Append everything that is appended in a block at its end."""
        logs: list[dict[str, Any]] = []
        self._collected = logs
        try:
            yield
        finally:
            self._collected = None
        self.append_logs(logs)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append whole lines."""
        if self._collected is not None:
            self._collected += logs
            return
        text = "".join(encode_json(log, separators=(",", ":")) + "\n" for log in logs)
        with hold_file(self._lock_path):
            self._repair()
            with self._path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                if any("state" in log for log in logs):
                    os.fsync(file.fileno())

    def _repair(self) -> None:
        """Cut off an unfinished last line, whose writer never heard that it was written."""
        with self._path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            if size == 0:
                return
            file.seek(size - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
