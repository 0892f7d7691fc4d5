"""List, verify and remove entries of a store while other processes use it."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import Timeout

from lightexp.core.disk_errors import explain_disk_errors
from lightexp.core.regular_files import read_text
from lightexp.core.store import DRAFTS, LOCKS, QUARANTINE, Store, make_lock, remove_path
from lightexp.core.store_entry import ENTRIES, MANIFEST, entry_lock

TRASH = "trash"
State = Literal["idle", "in use", "quarantined"]
Verdict = Literal["sound", "facts without digest", "broken"]


@dataclass(frozen=True)
class StoreItem:
    """An entry of a store, complete or quarantined.

    Attributes:
        key: The store key.
        kind: Description that its maker gave.
        folder: The folder of its files.
        bytes: Size of its files, in bytes.
        creation_time: When it was made, in seconds since the epoch.
        last_use_time: When it was last loaded or made, in seconds since the epoch.
        state: `in use` while a process that has loaded or made it is running; `quarantined` if it was found broken.
    """

    key: str
    kind: str
    folder: Path
    bytes: int
    creation_time: float
    last_use_time: float
    state: State


def list_items(root: Path) -> list[StoreItem]:
    """Return the entries of the store at `root`, the least recently used first."""
    items = []
    entries = (path for path in (root / ENTRIES).glob("??/*") if path.name.startswith(path.parent.name))
    for folder in [*entries, *(root / QUARANTINE).glob("*")]:
        with suppress(FileNotFoundError):  # removed meanwhile
            items.append(_make_item(folder, is_quarantined=folder.parent.name == QUARANTINE))
    return sorted(items, key=lambda item: (item.last_use_time, item.key))


def _make_item(folder: Path, is_quarantined: bool) -> StoreItem:
    files = folder.iterdir() if folder.is_dir() else []  # something else is in an entry's place
    size = sum(path.lstat().st_size for path in files)
    last_use_time = _read_last_use(folder)
    try:
        manifest = json.loads(read_text(folder / MANIFEST))
        kind, creation_time = str(manifest["kind"]), float(manifest["made"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        kind, creation_time = "?", last_use_time
    state: State = "idle"
    if is_quarantined:
        state = "quarantined"
    elif _is_in_use(folder):
        state = "in use"
    return StoreItem(folder.name.partition("-")[0], kind, folder, size, creation_time, last_use_time, state)


def _read_last_use(folder: Path) -> float:
    """Return when an entry was last loaded or made, which touches its manifest."""
    manifest = folder / MANIFEST
    return (manifest.stat() if manifest.is_file() else folder.lstat()).st_mtime


def _is_in_use(folder: Path) -> bool:
    """Check whether a process holds an entry, or may: another user owns it, or the file system has no locks."""
    try:
        with entry_lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
    except OSError:
        return True


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
    for path in (root / LOCKS).glob("*.lock"):
        if not dry and not any((root / where / path.stem).exists() for where in (f"{ENTRIES}/{path.stem[:2]}", DRAFTS)):
            with suppress(Timeout), make_lock(root, path.stem).acquire(timeout=0):
                path.unlink(missing_ok=True)
    return orphans


def select_evictable(
    items: list[StoreItem], now: float, older_than: float | None, max_size: float | None, keep: Container[str] | None
) -> list[StoreItem]:
    """Return the entries that every rule allows to remove, none of them in use, the least recently used first.

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
        if excess > 0 and is_old and not is_kept and item.state != "in use":
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
