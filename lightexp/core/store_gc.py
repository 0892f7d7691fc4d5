"""Keeping a store: what is there, and taking away what is not wanted, beside work that goes on."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from lightexp.core.store import DRAFTS, ENTRIES, LOCKS, MANIFEST, QUARANTINE, Store, entry_lock, explain_disk_errors

TRASH = "trash"
State = Literal["idle", "in use", "set aside"]


@dataclass(frozen=True)
class StoreItem:
    """Something that a store holds.

    Attributes:
        key: Its key.
        kind: What it is, in its maker's words.
        folder: Where it is.
        bytes: Of its files.
        made: When, in seconds since the epoch.
        used: When it was last loaded or made, likewise.
        state: `in use` while some process has loaded or made it and goes on; `set aside` if it did not verify.
    """

    key: str
    kind: str
    folder: Path
    bytes: int
    made: float
    used: float
    state: State


def list_items(root: Path) -> list[StoreItem]:
    """What the store below `root` holds, the least recently used first."""
    found = []
    for folder in [*(root / ENTRIES).glob("*/*"), *(root / QUARANTINE).glob("*")]:
        with suppress(FileNotFoundError, NotADirectoryError):  # taken away while we look, or no entry at all
            found.append(_item(folder, folder.parent.name == QUARANTINE))
    return sorted(found, key=lambda item: (item.used, item.key))


def _item(folder: Path, aside: bool) -> StoreItem:
    size = sum(path.stat().st_size for path in folder.iterdir())
    used = _used(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        kind, made = str(manifest["kind"]), float(manifest["made"])
    except (OSError, ValueError, KeyError, TypeError):
        kind, made = "?", used
    key = folder.name.partition("-")[0]
    return StoreItem(
        key, kind, folder, size, made, used, "set aside" if aside else "in use" if _in_use(folder) else "idle"
    )


def _used(folder: Path) -> float:
    """When an entry was last loaded or made: its manifest is touched then."""
    manifest = folder / MANIFEST
    return (manifest if manifest.exists() else folder).stat().st_mtime


def _in_use(folder: Path) -> bool:
    """Whether somebody holds an entry, or it cannot be known: others own it, or there are no locks."""
    try:
        with entry_lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
    except OSError:
        return True


def verify_item(store: Store, item: StoreItem) -> bool:
    """Whether an entry is whole; one that is not is set aside. One that has been taken away meanwhile is no fault."""
    with entry_lock(item.folder, fcntl.LOCK_SH):
        return not item.folder.exists() or store.check(item.key) is not None


def sweep_orphans(root: Path, dry: bool = False) -> int:
    """Clears away what killed processes have left half-made or half-removed, and locks of what is not there.

    A lock is unlinked by its holder alone; who waits for it meanwhile sees that, and takes the new one.

    Args:
        root: The store's folder.
        dry: Whether only to count. Defaults to False.

    Returns:
        Of how many entries there are remains.
    """
    remains = 0
    for folder in [*(root / TRASH).glob("*"), *(root / DRAFTS).glob("*")]:
        lock = FileLock(root / LOCKS / f"{folder.name}.lock", timeout=0)  # of a draft's maker; nobody has a trash's
        with suppress(Timeout), lock:
            if not dry:
                shutil.rmtree(folder, ignore_errors=True)
            remains += 1
    for path in (root / LOCKS).glob("*.lock"):
        if not dry and not any((root / where / path.stem).exists() for where in (f"{ENTRIES}/{path.stem[:2]}", DRAFTS)):
            with suppress(Timeout), FileLock(path, timeout=0):
                path.unlink(missing_ok=True)
    return remains


def select_evictable(
    there: list[StoreItem], now: float, older_than: float | None, max_size: float | None, named: Container[str] | None
) -> list[StoreItem]:
    """What may go, the least recently used first: what every rule that is given lets go, and nothing in use.

    Args:
        there: All items, the least recently used first.
        now: Seconds since the epoch.
        older_than: Seconds for which it must not have been used.
        max_size: Bytes that may stay; as many items go as must.
        named: Keys that stay.
    """
    over = float("inf") if max_size is None else sum(item.bytes for item in there) - max_size
    found = []
    for item in there:
        old = older_than is None or now - item.used >= older_than
        wanted = named is not None and item.key in named and item.state != "set aside"
        if over > 0 and old and not wanted and item.state != "in use":
            found.append(item)
            over -= item.bytes
    return found


def remove_item(root: Path, item: StoreItem) -> bool:
    """Takes an item away, at once and whole; False if it has been used since it was listed.

    Whoever is killed over it leaves its remains in the trash, never half an entry.

    Raises:
        RunFailed: If the store cannot be written.
    """
    gone = root / TRASH / f"{item.folder.name}-{time.time_ns()}"
    with explain_disk_errors(root):
        try:
            gone.parent.mkdir(exist_ok=True)
            with entry_lock(item.folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                if _used(item.folder) != item.used:
                    return False
                item.folder.rename(gone)
        except (BlockingIOError, FileNotFoundError):  # in use; another process has just taken it away
            return False
        shutil.rmtree(gone, ignore_errors=True)
    return True
