"""Content-addressed store of artifacts: one folder per key, complete or absent, shared by all runs that need it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lightexp.core.disk_errors import explain_disk_errors
from lightexp.core.fingerprint import hash_file
from lightexp.core.json_text import encode_json
from lightexp.core.regular_files import read_bytes, read_text, require_regular

MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.digest"
"""The file that holds the SHA-256 of the manifest's bytes, without the digest of this file that the manifest lists.

Since the manifest lists this file like any other, an entry that has lost either of the two is broken, and is not taken
for an entry of version 0.1, which has neither.
"""
OWN_FILES = frozenset({MANIFEST, MANIFEST_DIGEST})
"""The store's own files in an entry; all others are its maker's."""
ENTRIES, DRAFTS, LOCKS, QUARANTINE = "entries", "drafts", "locks", "set-aside"
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL)
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_LOCKS_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

Make = Callable[[Path], dict[str, Any]]
"""Writes an entry's files into a folder and returns its facts, as JSON types."""


@dataclass(frozen=True)
class Entry:
    """A complete entry of the store.

    Attributes:
        key: The store key.
        folder: The folder of its files, which is read-only.
        facts: What its `Make` function returned, as JSON types.
        seconds: How long it took to make.
        has_manifest_digest: Whether facts and seconds are under a digest; not in entries that version 0.1 made, of
            which only the files are. Defaults to True.
    """

    key: str
    folder: Path
    facts: dict[str, Any]
    seconds: float
    has_manifest_digest: bool = True


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

    def __init__(self, root: Path) -> None:
        """Open the store at `root`, a folder that is created with the first entry."""
        self.root = root
        self._held: dict[str, int] = {}  # key to the descriptor that holds its lock
        weakref.finalize(self, _close_all, self._held)

    def release(self) -> None:
        """Release all entries, which may be removed from now on."""
        _close_all(self._held)

    def folder(self, key: str) -> Path:
        """Return the folder of a key's entry, whether it exists or not."""
        return self.root / ENTRIES / key[:2] / key

    def has(self, key: str) -> bool:
        """Check whether there is an entry of a key; it may still prove broken when it is loaded."""
        return (self.folder(key) / MANIFEST).is_file()

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
        try:
            entry = _read_entry(key, folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            if isinstance(error, OSError) and error.errno in _EXHAUSTED:
                raise
            entry = None
        if entry is None:
            _quarantine(self.root, folder)
        return entry

    def ensure(self, key: str, kind: str, make: Make, on_wait: Callable[[], None] = lambda: None) -> tuple[Entry, bool]:
        """Load the entry of a key, or make it.

        Args:
            key: The store key.
            kind: Description of the entry, for people who list the store.
            make: Writes the files into the folder that it receives and returns the facts.
            on_wait: Called once if another process is making the entry. Defaults to doing nothing.

        Returns:
            The entry, and whether it existed already.

        Raises:
            RunFailed: If the disk is full or the store cannot be written.
        """
        with explain_disk_errors(self.root):
            if entry := self.load(key):
                return entry, True
        with explain_disk_errors(self.root), self._lock(key, on_wait):
            if entry := self.load(key):
                return entry, True
            draft = self.root / DRAFTS / key
            remove_path(draft)  # its owner has died, since this process has the lock
            draft.mkdir(parents=True)
            try:
                return self._make(key, kind, make, draft), False
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
        _write_manifest(manifest, draft)
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
        return Entry(key, target, json.loads(encode_json(facts)), seconds)

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


def _write_manifest(manifest: dict[str, Any], folder: Path) -> None:
    """Write the manifest, and the digest of all that it says."""
    manifest["files"][MANIFEST_DIGEST] = ""
    digest = hashlib.sha256(encode_json(manifest, indent=1).encode()).hexdigest()
    (folder / MANIFEST_DIGEST).write_text(digest, encoding="utf-8")
    manifest["files"][MANIFEST_DIGEST] = hash_file(folder / MANIFEST_DIGEST)
    (folder / MANIFEST).write_text(encode_json(manifest, indent=1), encoding="utf-8")


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


def _read_entry(key: str, folder: Path) -> Entry | None:
    """Return an entry if its manifest and files are as they were written; None if not."""
    content = read_bytes(folder / MANIFEST)
    manifest = json.loads(content)
    files = manifest["files"]
    if manifest["key"] != key or set(files) != {path.name for path in folder.iterdir()} - {MANIFEST}:
        return None
    if any(hash_file(folder / name) != digest for name, digest in files.items()):
        return None
    has_digest = MANIFEST_DIGEST in files
    if has_digest:
        digest = hashlib.sha256(content.replace(files[MANIFEST_DIGEST].encode(), b"")).hexdigest()
        if digest != read_text(folder / MANIFEST_DIGEST):
            return None
    return Entry(key, folder, dict(manifest["facts"]), float(manifest["seconds"]), has_digest)


@contextmanager
def entry_lock(folder: Path, how: int) -> Iterator[int | None]:
    """Lock an entry, and make sure that it is still in its folder once the lock is acquired.

    Args:
        folder: The entry's folder.
        how: `fcntl.LOCK_SH` to read it, which waits no longer than a folder takes to be renamed;
            `fcntl.LOCK_EX | fcntl.LOCK_NB` to remove it.

    Yields:
        The descriptor that holds the lock; None where the manifest is no file, or the file system has no locks.

    Raises:
        BlockingIOError: If the entry is in use and `how` does not wait.
    """
    path = folder / MANIFEST
    while True:
        try:
            require_regular(path)
            # over NFS an exclusive lock needs a writable descriptor
            descriptor = os.open(path, (os.O_RDWR if how & fcntl.LOCK_EX else os.O_RDONLY) | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
            yield None
            return
        try:
            try:
                fcntl.flock(descriptor, how)
                moved = not os.path.samestat(os.fstat(descriptor), os.stat(path))
            except FileNotFoundError:  # it was removed while this process waited
                moved = True
            except OSError as error:
                if error.errno not in _LOCKS_UNSUPPORTED or how & fcntl.LOCK_EX:
                    raise
                yield None
                return
            if not moved:
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _close_all(descriptors: dict[str, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


def fsync_path(path: Path) -> None:
    """Write a file's bytes, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
