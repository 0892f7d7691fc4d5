"""Content-addressed store of artifacts: one folder per key, complete or absent, shared by all runs that need it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from lightexp.core.disk_errors import explain_disk_errors
from lightexp.core.fingerprint import hash_file
from lightexp.core.regular_files import read_bytes
from lightexp.core.remote_store import RemoteStore
from lightexp.core.store_entry import (
    ENTRIES,
    MANIFEST,
    OWN_FILES,
    Entry,
    entry_lock,
    fsync_path,
    read_entry,
    write_manifest,
)
from lightexp.core.store_index import append_rows, make_row
from lightexp.core.store_sync import StoreSync

DRAFTS, LOCKS, QUARANTINE = "drafts", "locks", "set-aside"

Place = Literal["local", "remote"]
"""Where an entry is: in the store of this host, or only in the remote one."""
Make = Callable[[Path], dict[str, Any]]
"""Writes an entry's files into a folder and returns its facts, as JSON types."""


class Store:
    """A content-addressed store of artifacts below one folder.

    Guarantees:
        - An entry is complete or absent: it is written to a draft folder, synced and renamed.
        - Of several processes that need a key, one makes the entry and the others wait; a lock dies with its owner.
        - An entry of which any byte has changed, in a file or in the manifest, is quarantined and made again. Of
          entries that version 0.1 made, only the files are under a digest; they are served nevertheless.
        - An entry that was loaded or made is not removed by `lightexp store gc` before this object releases it or is
          deleted. The shared lock on its manifest dies with the process.

    Example:
        >>> import tempfile
        >>> store = Store(Path(tempfile.mkdtemp()))
        >>> def make(folder):
        ...     (folder / "numbers.txt").write_text("1 2 3")
        ...     return {"count": 3}
        >>> entry, from_store = store.ensure("0" * 64, "Numbers", make)
        >>> entry.facts, from_store, store.has("0" * 64)
        ({'count': 3}, False, True)
    """

    def __init__(self, root: Path, sync: StoreSync | None = None) -> None:
        """Open the store at `root`, a folder that is created with the first entry.

        Args:
            root: The folder.
            sync: The remote store that `ensure` fetches from and uploads to. Defaults to None: there is none.
        """
        self.root, self._sync = root, sync
        self._held: dict[str, int] = {}  # key to the descriptor that holds its lock
        weakref.finalize(self, _close_all, self._held)

    def release(self) -> None:
        """Release all entries, which may be removed from now on."""
        _close_all(self._held)

    def finish_uploads(self) -> None:
        """Wait until nothing is being uploaded to the remote store."""
        if self._sync is not None:
            self._sync.wait()

    def close(self, wait: bool = True) -> None:
        """Release all entries once they are uploaded, or without waiting for that; say what was not uploaded."""
        try:
            if wait:
                self.finish_uploads()
        finally:  # also after Ctrl-C
            if self._sync is not None:
                self._sync.report_skipped()
        self.release()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Close the store at the end of a context, also after an error; after Ctrl-C without waiting for uploads."""
        is_interrupted = False
        try:
            yield
        except KeyboardInterrupt:
            is_interrupted = True
            raise
        finally:
            self.close(wait=not is_interrupted)

    def share_record(self, run_id: str, make_text: Callable[[], str]) -> None:
        """Upload the JSON of a run's record, which keeps its entries in the remote store; nothing without one."""
        if self._sync is not None:
            self._sync.upload_record(run_id, make_text())

    def folder(self, key: str) -> Path:
        """Return the folder of a key's entry, whether it exists or not."""
        return self.root / ENTRIES / key[:2] / key

    def has(self, key: str) -> bool:
        """Check whether there is an entry of a key; it may still prove broken when it is loaded."""
        return (self.folder(key) / MANIFEST).is_file()

    def locate(self, keys: Collection[str]) -> dict[str, Place]:
        """Look up where entries are, each of which may still prove broken; those that are nowhere are left out."""
        places: dict[str, Place] = {key: "local" for key in keys if self.has(key)}
        missing = [key for key in keys if key not in places]
        if self._sync is not None and missing:
            for key in self._sync.find_present(missing):
                places[key] = "remote"
        return places

    def load(self, key: str) -> Entry | None:
        """Verify and hold an entry, and mark it as used now.

        Returns:
            The entry; None if it does not exist, or was broken and has been quarantined.
        """
        with entry_lock(self.folder(key), fcntl.LOCK_SH) as descriptor:
            entry = self.check(key)
            if entry and descriptor is not None:
                with suppress(OSError):  # the store may belong to another user
                    os.utime(descriptor)
                self._hold(key, os.dup(descriptor))
        return entry

    def check(self, key: str) -> Entry | None:
        """Verify an entry as `load` does, but neither hold it nor mark it as used.

        Raises:
            OSError: If the process has too many open files or too little memory, which says nothing about the entry.
        """
        folder = self.folder(key)
        if os.path.lexists(folder.parent) and not folder.parent.is_dir():
            _quarantine(self.root, folder.parent)
        if not os.path.lexists(folder):
            return None
        entry = read_entry(key, folder)
        if entry is None:
            _quarantine(self.root, folder)
        return entry

    def ensure(self, key: str, kind: str, make: Make, on_wait: Callable[[], None] = lambda: None) -> tuple[Entry, bool]:
        """Load the entry of a key, fetch it from the remote store, or make it.

        Args:
            key: The store key.
            kind: Description of the entry, for people who list the store.
            make: Writes the files into the folder that it receives and returns the facts.
            on_wait: Called if another process or host is making the entry. Defaults to doing nothing.

        Returns:
            The entry, and whether it existed already.

        Raises:
            RunFailed: If the disk is full or the store cannot be written.
        """
        with explain_disk_errors(self.root):
            entry, existed = self.load(key), True
            if entry is None:
                entry, existed = self._load_or_obtain(key, kind, make, on_wait)
        if self._sync is not None and entry.has_manifest_digest:
            self._sync.upload(key, entry.folder)
        return entry, existed

    def _load_or_obtain(self, key: str, kind: str, make: Make, on_wait: Callable[[], None]) -> tuple[Entry, bool]:
        """Load, fetch or make an entry under its lock."""
        with self._lock(key, on_wait):
            if entry := self.load(key):
                return entry, True
            with self._draft(key) as draft:
                if self._sync is None:
                    return self._make(key, kind, make, draft), False
                try:
                    if self._sync.obtain(key, draft, on_wait):
                        return self._commit(key, draft), True
                    return self._make(key, kind, make, draft), False
                except BaseException:
                    self._sync.give_up(key)
                    raise

    def fetch(self, key: str, remote: RemoteStore) -> bool:
        """Fetch the entry of a key from a remote store, unless there is one, and return whether there is one now.

        Raises:
            RunFailed: If the remote store does not answer, the disk is full or the store cannot be written.
        """
        return self._load_or_fetch(key, lambda key, draft: remote.fetch(key, draft) == "sound") is not None

    def find(self, key: str) -> Entry | None:
        """Load an entry, or fetch it from the remote store; None if neither has it."""
        if (entry := self.load(key)) or self._sync is None:
            return entry
        return self._load_or_fetch(key, self._sync.fetch)

    def _load_or_fetch(self, key: str, fetch: Callable[[str, Path], bool]) -> Entry | None:
        """Load or fetch an entry under its lock; `fetch` returns whether the draft folder holds it."""
        with explain_disk_errors(self.root), self._lock(key, lambda: None), self._draft(key) as draft:
            if entry := self.load(key):
                return entry
            return self._commit(key, draft) if fetch(key, draft) else None

    @contextmanager
    def _draft(self, key: str) -> Iterator[Path]:
        """Create an empty draft folder, and remove what is left of it in the end."""
        draft = self.root / DRAFTS / key
        remove_path(draft)  # its owner has died, since this process has the lock
        draft.mkdir(parents=True)
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _make(self, key: str, kind: str, make: Make, draft: Path) -> Entry:
        """Make an entry in a draft folder and rename that to the entry's folder."""
        start, cpu_start = time.perf_counter(), time.process_time()
        facts = make(draft)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        manifest = {
            "key": key,
            "kind": kind,
            "made": time.time(),
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "facts": facts,
            "files": {path.name: hash_file(path) for path in sorted(draft.iterdir()) if path.name not in OWN_FILES},
        }
        write_manifest(manifest, draft)
        return self._commit(key, draft)

    def _commit(self, key: str, draft: Path) -> Entry:
        """Sync a complete entry to the disk, rename its draft to its folder, and hold it."""
        for path in draft.iterdir():
            fsync_path(path)
        fsync_path(draft)
        target = self.folder(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        with entry_lock(draft, fcntl.LOCK_SH) as descriptor:  # before any other process can see the entry
            draft.rename(target)
            if descriptor is not None:
                self._hold(key, os.dup(descriptor))
        fsync_path(target.parent)
        manifest = json.loads(read_bytes(target / MANIFEST))
        append_rows(self.root, [make_row(target, manifest)])
        return Entry(key, target, manifest["facts"], float(manifest["seconds"]))

    def _hold(self, key: str, descriptor: int) -> None:
        previous = self._held.get(key)
        self._held[key] = descriptor
        if previous is not None:
            os.close(previous)

    @contextmanager
    def _lock(self, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
        lock = make_lock(self.root, key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def make_lock(root: Path, name: str) -> FileLock:
    """Return the lock of a key or a draft; what is in its place and is no file is quarantined."""
    path = root / LOCKS / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        _quarantine(root, path)
    return FileLock(path)


def remove_path(path: Path) -> None:
    """Remove a folder, or whatever else is in its place, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)  # which would open anything else, and wait for ever at a named pipe
    else:
        with suppress(OSError):
            path.unlink()


def _quarantine(root: Path, path: Path) -> None:
    place = root / QUARANTINE / f"{path.name}-{time.time_ns()}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):  # another process has just moved it
        path.rename(place)


def _close_all(descriptors: dict[str, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])
