"""Tasks of one command for hosts that share only a remote store: their leases, records and failures.

Layout below the store's address:

    calls/CALL/done/TASK.json      a task that is done, with the record of its run if it is one
    calls/CALL/failed/TASK.json    why a task has failed
    leases/CALL-TASK               held while a worker runs it; see `lightexp.core.remote_lease`
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from lightexp.core.errors import LightexpError, RunFailed
from lightexp.core.json_text import encode_json
from lightexp.core.object_storage import ObjectStorage, StorageUnavailable
from lightexp.core.record import Record, is_run_id, parse_record
from lightexp.core.remote_lease import RemoteLeases
from lightexp.core.remote_store import CALLS
from lightexp.execution.outage import OutageReporter

T = TypeVar("T")

_DONE, _FAILED = "done", "failed"
_logger = logging.getLogger("lightexp")
_POLL_S = 2.0  # between two looks at the storage, of which each is a request


class RemoteTasks:
    """The tasks of one command, as one process knows them; an outage of the storage is waited for.

    Attributes:
        done: The ids of tasks that are done.
        failures: Why tasks have failed, by id.
    """

    def __init__(self, url: str, call: str, expiry_s: float = 60.0) -> None:
        """Contact nothing yet.

        Args:
            url: The remote store's address.
            call: The command's own name.
            expiry_s: Seconds after which a dead worker's task is given to another.
        """
        self._storage, self._call = ObjectStorage(url), call
        self._leases = RemoteLeases(self._storage, expiry_s)
        self._outage = OutageReporter(f"The remote store {url}", _logger.warning)
        self._refused: dict[str, float] = {}
        self._next_look = 0.0
        self.done: set[str] = set()
        self.failures: dict[str, str] = {}

    def acquire(self, task_id: str) -> bool:
        """Acquire a task without waiting; return False if a living worker has it, or had it a moment ago."""
        now = time.monotonic()
        if now < self._refused.get(task_id, 0.0):
            return False
        if self._retry(lambda: self._leases.acquire(self._name_lease(task_id))):
            self._next_look = 0.0  # it may have been done a moment ago
            return True
        self._refused[task_id] = now + _POLL_S
        return False

    def release(self, task_id: str) -> None:
        """Release a task, if this process has acquired it."""
        self._leases.release(self._name_lease(task_id))

    def refresh(self, at_once: bool = False) -> None:
        """Look what has become of the tasks, unless that was done a moment ago and `at_once` is not set."""
        if not at_once and time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _POLL_S
        prefix = f"{CALLS}/{self._call}"
        for stored in self._retry(lambda: list(self._storage.list_objects(prefix))):
            state, _, name = stored.name.removeprefix(f"{prefix}/").partition("/")
            task_id = name.removesuffix(".json")
            if state == _DONE:
                self.done.add(task_id)
            elif state == _FAILED and task_id not in self.failures:
                self.failures[task_id] = str(self._read(state, task_id))

    def report_done(self, task_id: str, record: Record | None) -> None:
        """Tell the other hosts that a task is done.

        Args:
            task_id: The task.
            record: The record of the run that it was; None if it was none.
        """
        self._write(_DONE, task_id, "null" if record is None else record.to_json())
        self.done.add(task_id)

    def report_failure(self, task_id: str, reason: str) -> None:
        """Tell the other hosts why a task has failed."""
        self._write(_FAILED, task_id, encode_json(reason))
        self.failures[task_id] = reason

    def read_record(self, task_id: str) -> Record | None:
        """Return the record of a task that is done; None if it was no run.

        Raises:
            RunFailed: If what is in its place is no record.
        """
        values = self._read(_DONE, task_id)
        if values is None:
            return None
        try:
            record = parse_record(values)
            if not is_run_id(record.id):  # it may come from a stranger, and becomes the name of a folder
                raise ValueError(f"its id is {record.id!r}")
        except ValueError as error:
            place = self._name_object(_DONE, task_id)
            raise RunFailed(f"{self._storage.url}: {place} is not a record: {error}. Run the command again.") from None
        return record

    def clear(self) -> None:
        """Remove what this command has left in the storage; what cannot be removed is left to `store gc --remote`."""
        with suppress(LightexpError):
            for stored in self._storage.list_objects(f"{CALLS}/{self._call}"):
                self._storage.remove(stored.name)

    def _name_lease(self, task_id: str) -> str:
        return f"{self._call}-{task_id}"

    def _name_object(self, state: str, task_id: str) -> str:
        return f"{CALLS}/{self._call}/{state}/{task_id}.json"

    def _read(self, state: str, task_id: str) -> Any:
        """Return the JSON values of an object; one that holds none, such as a proxy's page, counts as an outage."""
        name = self._name_object(state, task_id)

        def read() -> Any:
            try:
                return json.loads(self._storage.read(name))
            except (ValueError, RecursionError):
                raise StorageUnavailable(f"{name} is not lightexp's; a proxy may have answered") from None

        return self._retry(read)

    def _write(self, state: str, task_id: str, text: str) -> None:
        content = text.encode(errors="backslashreplace")
        self._retry(lambda: self._storage.write(self._name_object(state, task_id), content))

    def _retry(self, request: Callable[[], T]) -> T:
        while True:
            try:
                result = request()
            except StorageUnavailable as error:
                self._outage.wait(error)
                continue
            self._outage.end()
            return result
