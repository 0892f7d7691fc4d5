"""List, verify and remove entries of a store while other processes use it."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import Timeout

from lightexp.core.disk_errors import NOT_WRITABLE, explain_disk_errors
from lightexp.core.regular_files import read_text
from lightexp.core.store import DRAFTS, LOCKS, QUARANTINE, Store, make_lock, remove_path
from lightexp.core.store_entry import ENTRIES, MANIFEST, entry_lock
from lightexp.core.store_index import IndexRow, StoreIndex

TRASH = "trash"
UNREADABLE = "?"
"""The kind of an entry whose manifest cannot be read."""
State = Literal["idle", "in use", "read-only", "quarantined"]
Verdict = Literal["sound", "facts without digest", "broken"]


class StoreItem(NamedTuple):
    """An entry of a store, complete or quarantined.

    Attributes:
        key: The store key.
        kind: Description that its maker gave.
        parent: The folder of its folder.
        name: The name of its folder.
        bytes: Size of its files, in bytes.
        creation_time: When it was made, in seconds since the epoch.
        last_use_time: When it was last loaded or made, in seconds since the epoch.
        state: `in use` while a process that has loaded or made it is running; `read-only` if this process may not find
            that out, nor remove it; `quarantined` if it was found broken.
    """

    key: str
    kind: str
    parent: Path
    name: str
    bytes: int
    creation_time: float
    last_use_time: float
    state: State

    @property
    def folder(self) -> Path:
        """The folder of its files. It is made when needed: a hundred thousand paths take longer than all the rest."""
        return self.parent / self.name


def list_items(root: Path, check_use: bool = True, on_read: Callable[[], None] = lambda: None) -> list[StoreItem]:
    """Return the entries of the store at `root`, the least recently used first.

    Args:
        root: The store's folder.
        check_use: Whether to find out which entries are in use, which opens each of them; otherwise they count as idle.
            Defaults to True.
        on_read: Called for each entry that the index lacks, so that its files are looked at. Defaults to doing nothing.
    """
    index = StoreIndex(root)
    items: list[StoreItem] = []
    for parent in _iterate_folder(root / ENTRIES):
        if len(parent.name) == 2:
            items += _list_entries(parent, index, on_read)
    index.save()
    if check_use:
        items = [item._replace(state=find_state(item.folder)) for item in items]
    for folder in _iterate_folder(root / QUARANTINE):
        with suppress(FileNotFoundError):  # removed meanwhile
            items.append(_read_item(folder)._replace(state="quarantined"))
    return sorted(items, key=attrgetter("last_use_time", "key"))


def _iterate_folder(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from folder.iterdir()


def _list_entries(parent: Path, index: StoreIndex, on_read: Callable[[], None]) -> Iterator[StoreItem]:
    """Yield the entries in the folder of those whose keys begin alike, from the index where that knows them."""
    try:
        descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # something else is in its place
        return
    try:
        prefix = parent.name
        for key in os.listdir(descriptor):
            if not key.startswith(prefix):
                continue
            try:
                manifest = os.stat(f"{key}/{MANIFEST}", dir_fd=descriptor)  # half the time of one by an absolute path
            except OSError:
                manifest = None
            row = index.find(key, manifest) if manifest else None
            if row is not None and manifest is not None:
                yield StoreItem(key, row.kind, parent, key, row.bytes, row.creation_time, manifest.st_mtime, "idle")
                continue
            on_read()
            with suppress(FileNotFoundError):  # removed meanwhile
                item = _read_item(parent / key)
                if manifest and item.kind != UNREADABLE:
                    identity = manifest.st_ino, manifest.st_size
                    index.add(IndexRow(key, *identity, item.bytes, item.kind, item.creation_time))
                yield item
    finally:
        os.close(descriptor)


def _read_item(folder: Path) -> StoreItem:
    """Return an entry as its files are, idle or not."""
    try:
        files = folder.iterdir() if folder.is_dir() else []  # something else is in an entry's place
        size, last_use_time = sum(path.lstat().st_size for path in files), _read_last_use(folder)
    except PermissionError:  # of another user
        size, last_use_time = 0, folder.lstat().st_mtime
    try:
        manifest = json.loads(read_text(folder / MANIFEST))
        kind, creation_time = str(manifest["kind"]), float(manifest["made"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        kind, creation_time = UNREADABLE, last_use_time
    return StoreItem(
        folder.name.partition("-")[0], kind, folder.parent, folder.name, size, creation_time, last_use_time, "idle"
    )


def _read_last_use(folder: Path) -> float:
    """Return when an entry was last loaded or made, which touches its manifest."""
    manifest = folder / MANIFEST
    return (manifest.stat() if manifest.is_file() else folder.lstat()).st_mtime


def find_state(folder: Path) -> State:
    """Find out whether a process holds an entry. Where the file system has no locks, each counts as in use."""
    try:
        with entry_lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return "idle"
    except OSError as error:
        return "read-only" if error.errno in NOT_WRITABLE else "in use"


def verify_item(store: Store, item: StoreItem) -> Verdict:
    """Check every digest of an entry, and quarantine it if it is broken.

    Returns:
        `sound`, also for an entry that has been removed meanwhile; `facts without digest` for an entry of version 0.1
        whose files are sound; or `broken`.

    Raises:
        RunFailed: If the entry is broken and the store cannot be written.
    """
    with explain_disk_errors(store.root), entry_lock(item.folder, fcntl.LOCK_SH):
        if not os.path.lexists(item.folder):
            return "sound"
        entry = store.check(item.key)
    if entry is None:
        return "broken"
    return "sound" if entry.has_manifest_digest else "facts without digest"


def sweep_orphans(root: Path, dry: bool = False) -> int:
    """Remove what killed processes have left of entries that were being made or removed, and unused lock files.

    A lock file is unlinked only by the holder of the lock; a process that waits for it notices, and locks the new file.

    Args:
        root: The store's folder.
        dry: Whether only to count. Defaults to False.

    Returns:
        Number of incomplete entries.
    """
    orphans = 0
    for folder in [*(root / TRASH).glob("*"), *(root / DRAFTS).glob("*")]:
        lock = make_lock(root, folder.name)  # of a draft's maker; trash has none
        with suppress(Timeout), lock.acquire(timeout=0):
            if not dry:
                remove_path(folder)
            orphans += 1
    if not dry:
        _remove_unused_locks(root)
    return orphans


def _remove_unused_locks(root: Path) -> None:
    """Remove the lock files of keys without an entry or a draft."""
    for path in _iterate_folder(root / LOCKS):
        key = path.stem
        if path.suffix != ".lock" or os.path.exists(f"{root}/{ENTRIES}/{key[:2]}/{key}"):
            continue
        if not (root / DRAFTS / key).exists():
            with suppress(Timeout), make_lock(root, key).acquire(timeout=0):
                path.unlink(missing_ok=True)


def select_evictable(
    items: list[StoreItem], now: float, older_than: float | None, max_size: float | None, keep: Container[str] | None
) -> list[StoreItem]:
    """Return the entries that every rule allows to remove, none in use or read-only, the least recently used first.

    Args:
        items: All entries, the least recently used first.
        now: The present time, in seconds since the epoch.
        older_than: Seconds for which a removable entry has not been used; None removes at any age.
        max_size: Bytes that the remaining entries may have; no more entries are removed than it takes. None is 0.
        keep: Keys of entries to keep; None keeps none.
    """
    excess = float("inf") if max_size is None else sum(item.bytes for item in items) - max_size
    evictable = []
    for item in items:
        is_old = older_than is None or now - item.last_use_time >= older_than
        is_kept = keep is not None and item.key in keep and item.state != "quarantined"
        if excess > 0 and is_old and not is_kept and item.state not in ("in use", "read-only"):
            evictable.append(item)
            excess -= item.bytes
    return evictable


def remove_item(root: Path, item: StoreItem) -> bool:
    """Remove an entry atomically; a process that is killed meanwhile leaves files in the trash folder only.

    Returns:
        Whether it was removed; it is not if it has been used since it was listed.

    Raises:
        RunFailed: If the store cannot be written.
    """
    trash = root / TRASH / f"{item.folder.name}-{time.time_ns()}"
    with explain_disk_errors(root):
        try:
            trash.parent.mkdir(exist_ok=True)
            with entry_lock(item.folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                if _read_last_use(item.folder) != item.last_use_time:
                    return False
                item.folder.rename(trash)
        except (BlockingIOError, FileNotFoundError):  # in use, or just removed by another process
            return False
        remove_path(trash)
    return True
