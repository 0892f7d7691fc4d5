"""The store: one folder of files per key, whole or not there at all, shared by every run that needs it."""

from __future__ import annotations

import errno
import fcntl
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

from lightexp.core.errors import RunFailed
from lightexp.core.fingerprint import hash_file

MANIFEST = "manifest.json"
ENTRIES, DRAFTS, LOCKS, QUARANTINE = "entries", "drafts", "locks", "set-aside"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Entry:
    """A whole entry of the store.

    Attributes:
        key: Its key.
        folder: Where its files are; to be read only.
        facts: What its maker said of it, as JSON types.
        seconds: How long it took to make.
    """

    key: str
    folder: Path
    facts: dict[str, Any]
    seconds: float


class Store:
    """A content-addressed store of artifacts below one folder.

    Guarantees: an entry appears whole or not at all (written aside, synced, renamed); of several processes that need a
    key one makes it and the others wait; the lock dies with its owner; an entry whose files are not the ones that its
    manifest lists is set aside and made again; an entry that was loaded or made stays until this object releases
    it or goes, whatever `lightexp store gc` is told (a shared lock on its manifest, which dies with its process).
    """

    def __init__(self, root: Path) -> None:
        """Opens the store at `root`, which is made when the first entry is."""
        self.root = root
        self._held: dict[str, int] = {}  # key to the descriptor that holds its lock
        weakref.finalize(self, _let_go, self._held)

    def release(self) -> None:
        """Lets go of all entries: from now on they may be taken away."""
        _let_go(self._held)

    def folder(self, key: str) -> Path:
        """Where the entry of `key` is, or would be."""
        return self.root / ENTRIES / key[:2] / key

    def has(self, key: str) -> bool:
        """Whether there is an entry of `key`; it may still prove broken when it is loaded."""
        return (self.folder(key) / MANIFEST).is_file()

    def load(self, key: str) -> Entry | None:
        """Loads and verifies an entry; None if it is not there, or was broken and has been set aside.

        It counts as used now, and is held.
        """
        with entry_lock(self.folder(key), fcntl.LOCK_SH) as descriptor:
            entry = self.check(key)
            if entry and descriptor is not None:
                with suppress(OSError):  # a store that others own
                    os.utime(descriptor)
                self._hold(key, os.dup(descriptor))
        return entry

    def check(self, key: str) -> Entry | None:
        """Verifies an entry as `load` does, but neither counts it as used nor holds it."""
        folder = self.folder(key)
        if not folder.exists():
            return None
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            files = manifest["files"]
            whole = manifest["key"] == key and set(files) == {p.name for p in folder.iterdir()} - {MANIFEST}
            whole = whole and all(hash_file(folder / name) == digest for name, digest in files.items())
            entry = Entry(key, folder, dict(manifest["facts"]), float(manifest["seconds"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if whole:
            return entry
        aside = self.root / QUARANTINE / f"{key}-{time.time_ns()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process has just set it aside
            folder.rename(aside)
        return None

    def ensure(
        self,
        key: str,
        kind: str,
        make: Callable[[Path], dict[str, Any]],
        on_wait: Callable[[], None] = lambda: None,
    ) -> tuple[Entry, bool]:
        """Loads the entry of `key`, or makes it.

        Args:
            key: Its key.
            kind: What it is, for people who list the store.
            make: Writes the files into the folder it is given and returns the facts.
            on_wait: Called once if another process is making the entry.

        Returns:
            The entry, and whether it was there already.

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
            shutil.rmtree(draft, ignore_errors=True)  # of an owner that died: the lock is ours
            draft.mkdir(parents=True)
            try:
                start, computed = time.perf_counter(), time.process_time()
                facts = make(draft)
                seconds, computed = time.perf_counter() - start, time.process_time() - computed
                files = {p.name: hash_file(p) for p in sorted(draft.iterdir())}
                spent = {"seconds": seconds, "cpu_seconds": computed}
                manifest = {"key": key, "kind": kind, "made": time.time(), **spent, "facts": facts}
                (draft / MANIFEST).write_text(json.dumps({**manifest, "files": files}, indent=1))
                for path in draft.iterdir():
                    fsync_path(path)
                fsync_path(draft)
                target = self.folder(key)
                target.parent.mkdir(parents=True, exist_ok=True)
                with entry_lock(draft, fcntl.LOCK_SH) as descriptor:  # before anybody can see it
                    draft.rename(target)
                    if descriptor is not None:
                        self._hold(key, os.dup(descriptor))
                fsync_path(target.parent)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return Entry(key, target, json.loads(json.dumps(facts)), seconds), False

    def _hold(self, key: str, descriptor: int) -> None:
        before = self._held.get(key)
        self._held[key] = descriptor
        if before is not None:
            os.close(before)

    @contextmanager
    def _lock(self, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
        path = self.root / LOCKS / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


@contextmanager
def entry_lock(folder: Path, how: int) -> Iterator[int | None]:
    """Holds an entry that is where it was when the lock was got.

    Args:
        folder: The entry's.
        how: `fcntl.LOCK_SH` to read it, waiting for no longer than a folder takes to be renamed;
            `fcntl.LOCK_EX | fcntl.LOCK_NB` to take it away.

    Yields:
        The descriptor that has the lock; None where there is no manifest, or no locks on this file system.

    Raises:
        BlockingIOError: If it is in use and `how` does not wait.
    """
    path = folder / MANIFEST
    while True:
        try:
            # over NFS an exclusive lock takes a descriptor that could write
            descriptor = os.open(path, os.O_RDWR if how & fcntl.LOCK_EX else os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            yield None
            return
        try:
            try:
                fcntl.flock(descriptor, how)
                again = not os.path.samestat(os.fstat(descriptor), os.stat(path))
            except FileNotFoundError:  # it was taken away while we waited
                again = True
            except OSError as error:
                if error.errno not in _NO_LOCKS or how & fcntl.LOCK_EX:
                    raise
                yield None
                return
            if not again:
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _let_go(held: dict[str, int]) -> None:
    while held:
        os.close(held.popitem()[1])


def fsync_path(path: Path) -> None:
    """Makes sure that a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explain_disk_errors(root: Path) -> Iterator[None]:
    """Turns a full or unwritable disk below `root` into one clear line (`RunFailed`)."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunFailed(f"The disk that holds {root} is full. Free some space and run the same command.") from None
        lost = error.errno == errno.ENOENT and f"{error.filename}".startswith(f"{root}")
        if lost or error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise RunFailed(f"{root} cannot be written: {error.strerror}. Set paths.outputs=FOLDER.") from None
        raise
