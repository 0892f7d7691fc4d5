"""Synchronization of a local store with a remote one: entries are fetched, and uploaded in the background."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from queue import SimpleQueue

from lightexp.core.errors import LightexpError
from lightexp.core.formatting import format_count
from lightexp.core.object_storage import ObjectStorage, StorageRefused, StorageUnavailable
from lightexp.core.parallel_requests import request_parallel
from lightexp.core.remote_lease import Leases, RemoteLeases
from lightexp.core.remote_store import RemoteStore
from lightexp.core.store_entry import KEY_CHARS

_PAUSE_S = 300.0  # without the remote store, after it has failed
_POLL_S = 1.0  # of an entry that another host is making
_PATIENCE_S = 2.0  # for uploads at the end of a run; after it, a line says what is waited for
_LOOKUP_S = 20.0  # of any number of keys


class StoreSync:
    """Fetches entries from a remote store and uploads new ones, for all runs of a process.

    A run never fails for the remote store. If that does not answer or is full, this says so once, runs go on with the
    local store, and after five minutes it is tried again. If it may only be read, entries are still fetched.
    """

    def __init__(self, remote: RemoteStore, leases: Leases, say: Callable[[str], None]) -> None:
        """Contact nothing yet.

        Args:
            remote: The remote store.
            leases: The leases of its keys.
            say: Takes each line for the user.
        """
        self._remote, self._leases, self._say = remote, leases, say
        self._retry_time = 0.0
        self._is_read_only = False
        self._failure_reported = False
        self._wait_reported = False
        self._damaged: set[str] = set()
        self._shared: set[str] = set()  # keys that the remote store is known to have
        self._jobs: SimpleQueue[tuple[Callable[[], object], str]] = SimpleQueue()
        self._changed = threading.Condition()
        self._pending = 0
        self._skipped = 0
        self._thread: threading.Thread | None = None

    def connect(self) -> None:
        """Contact the remote store.

        Raises:
            BadInput: If its bucket does not exist, it denies access, a newer version of lightexp made it, or its
                backend is not installed.
        """
        try:
            self._remote.connect()
        except StorageUnavailable as error:
            self._fail(error)

    def obtain(self, key: str, folder: Path, on_wait: Callable[[], None]) -> bool:
        """Fetch an entry into an empty folder, or acquire the lease to make it.

        Args:
            key: Its key.
            folder: The folder, which is empty again if nothing was fetched.
            on_wait: Called once if another host is making the entry.

        Returns:
            Whether the folder holds the sound entry. If not, the caller makes it, and calls `upload` or `give_up`.
        """
        if self._is_off():
            return False
        try:
            is_fetched = self._fetch_or_lease(key, folder, on_wait)
        except LightexpError as error:
            self._fail(error)
            is_fetched = False
        if is_fetched:
            self._leases.release(key)
        else:
            _remove_files(folder)
            self._shared.discard(key)  # what the caller makes has to be uploaded, after an earlier upload as well
        return is_fetched

    def fetch(self, key: str, folder: Path) -> bool:
        """Fetch an entry into an empty folder, and return whether that holds the sound entry now."""
        if self._is_off():
            return False
        try:
            return self._fetch(key, folder)
        except LightexpError as error:
            self._fail(error)
            return False

    def find_present(self, keys: Collection[str]) -> set[str]:
        """Return which of some keys the remote store has, or of which of them it says so within 20 seconds."""
        if self._is_off():
            return set()
        present: set[str] = set()
        requested, deadline = list(keys), time.monotonic() + _LOOKUP_S
        try:
            for key, is_present in zip(requested, request_parallel(self._remote.has, requested), strict=True):
                if time.monotonic() > deadline:
                    self._say(f"{self._remote.url} has not answered in {_LOOKUP_S:.0f} s which results it has.")
                    break
                if is_present:
                    present.add(key)
        except LightexpError as error:
            self._fail(error)
        return present

    def _fetch_or_lease(self, key: str, folder: Path, on_wait: Callable[[], None]) -> bool:
        waits = False
        while not self._fetch(key, folder):
            if self._is_read_only:
                return False
            if self._leases.acquire(key):
                return self._fetch(key, folder)  # it may have been uploaded between the two requests
            if not waits:
                on_wait()
            waits = True
            time.sleep(_POLL_S)
        return True

    def _fetch(self, key: str, folder: Path) -> bool:
        state = self._remote.fetch(key, folder)
        if state == "damaged":
            _remove_files(folder)
            if key not in self._damaged:
                self._say(f"{self._remote.url} holds a damaged {key[:KEY_CHARS]}. It is made here, and replaced.")
            self._damaged.add(key)
        elif state == "sound":
            self._damaged.discard(key)  # `upload` looks again: `store gc` of another host may be removing it
        return state == "sound"

    def give_up(self, key: str) -> None:
        """Let others make an entry that could not be made here."""
        self._end_lease(key, not self._is_off())

    def upload(self, key: str, folder: Path) -> None:
        """Upload a sound entry in the background, unless it is there; its folder must stay until `wait` returns."""

        def work() -> None:
            self._remote.upload(key, folder, replace=key in self._damaged)
            self._damaged.discard(key)
            self._shared.add(key)

        if key not in self._shared:
            self._submit(work, key)

    def upload_record(self, run_id: str, text: str) -> None:
        """Upload the JSON of a run's record in the background, after what was submitted before."""
        self._submit(lambda: self._remote.write_record(run_id, text))

    def wait(self) -> None:
        """Wait until all uploads have ended, and say so the first time that it takes long."""
        with self._changed:
            patience = None if self._wait_reported else _PATIENCE_S
            if not self._changed.wait_for(lambda: not self._pending, patience):
                self._wait_reported = True
                self._say(f"Waiting for {format_count(self._pending, 'upload')} to {self._remote.url}.")
                self._changed.wait_for(lambda: not self._pending)

    def report_skipped(self) -> None:
        """Say how many uploads have not taken place, those that are still waiting included."""
        with self._changed:
            skipped, self._skipped = self._skipped + self._pending, 0
        if skipped:
            push = f"lightexp store push store.remote={shlex.quote(self._remote.url)}"
            self._say(f"Not uploaded to {self._remote.url}: {format_count(skipped, 'result')}. Later: {push}")

    def _submit(self, work: Callable[[], object], key: str = "") -> None:
        with self._changed:
            self._pending += 1
        self._jobs.put((work, key))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work_forever, daemon=True)
            self._thread.start()

    def _work_forever(self) -> None:
        while True:
            work, key = self._jobs.get()
            is_done = self._try_upload(work)
            if key:
                self._end_lease(key, is_done)
            with self._changed:
                self._pending -= 1
                self._skipped += not is_done
                self._changed.notify_all()

    def _try_upload(self, work: Callable[[], object]) -> bool:
        if self._is_read_only or self._is_off():
            return False
        try:
            work()
        except LightexpError as error:
            self._fail(error)
            return False
        except OSError:  # of the local disk
            return False
        return True

    def _end_lease(self, key: str, answers: bool) -> None:
        """Release a lease, or let it expire where the remote store does not answer: a request would only wait again."""
        if answers:
            self._leases.release(key)
        else:
            self._leases.expire(key)

    def _is_off(self) -> bool:
        return time.monotonic() < self._retry_time

    def _fail(self, error: LightexpError) -> None:
        """Do without the remote store for a while, or without writing to it, and say so once."""
        if isinstance(error, StorageRefused):
            self._is_read_only = True
        else:
            self._retry_time = time.monotonic() + _PAUSE_S
        if not self._failure_reported:
            self._say(f"{str(error).rstrip('.')}. The run goes on with the local store.")
        self._failure_reported = True


def connect_store(url: str, say: Callable[[str], None], leases: Leases | None = None) -> StoreSync:
    """Connect to the remote store at an address; see `StoreSync.connect`. By default the leases are in that store."""
    storage = ObjectStorage(url)
    sync = StoreSync(RemoteStore(storage), leases or RemoteLeases(storage), say)
    sync.connect()
    return sync


def _remove_files(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
