"""The store: one folder of files per key, whole or not there at all, shared by every run that needs it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lightexp.core.errors import RunFailed
from lightexp.core.fingerprint import file_digest

MANIFEST = "manifest.json"


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
    manifest lists is set aside and made again.
    """

    def __init__(self, root: Path) -> None:
        """Opens the store at `root`, which is made when the first entry is."""
        self.root = root

    def folder(self, key: str) -> Path:
        """Where the entry of `key` is, or would be."""
        return self.root / "entries" / key[:2] / key

    def has(self, key: str) -> bool:
        """Whether there is an entry of `key`; it may still prove broken when it is loaded."""
        return (self.folder(key) / MANIFEST).is_file()

    def load(self, key: str) -> Entry | None:
        """Loads and verifies an entry; None if it is not there, or was broken and has been set aside."""
        folder = self.folder(key)
        if not folder.exists():
            return None
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            files = manifest["files"]
            whole = manifest["key"] == key and set(files) == {p.name for p in folder.iterdir()} - {MANIFEST}
            whole = whole and all(file_digest(folder / name) == digest for name, digest in files.items())
            entry = Entry(key, folder, dict(manifest["facts"]), float(manifest["seconds"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if whole:
            return entry
        aside = self.root / "set-aside" / f"{key}-{time.time_ns()}"
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
        with plain_disk_errors(self.root):
            if entry := self.load(key):
                return entry, True
        with plain_disk_errors(self.root), self._lock(key, on_wait):
            if entry := self.load(key):
                return entry, True
            draft = self.root / "drafts" / key
            shutil.rmtree(draft, ignore_errors=True)  # of an owner that died: the lock is ours
            draft.mkdir(parents=True)
            try:
                start = time.perf_counter()
                facts = make(draft)
                seconds = time.perf_counter() - start
                files = {p.name: file_digest(p) for p in sorted(draft.iterdir())}
                manifest = {"key": key, "kind": kind, "made": time.time(), "seconds": seconds, "facts": facts}
                (draft / MANIFEST).write_text(json.dumps({**manifest, "files": files}, indent=1))
                for path in draft.iterdir():
                    sync(path)
                sync(draft)
                target = self.folder(key)
                target.parent.mkdir(parents=True, exist_ok=True)
                draft.rename(target)
                sync(target.parent)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return Entry(key, target, json.loads(json.dumps(facts)), seconds), False

    @contextmanager
    def _lock(self, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
        path = self.root / "locks" / f"{key}.lock"
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


def sync(path: Path) -> None:
    """Makes sure that a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def plain_disk_errors(root: Path) -> Iterator[None]:
    """Turns a full or unwritable disk below `root` into one clear line (`RunFailed`)."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunFailed(f"The disk that holds {root} is full. Free some space and run the same command.") from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise RunFailed(f"{root} cannot be written: {error.strerror}. Set paths.outputs=FOLDER.") from None
        raise
