"""Garbage collection of a remote store: entries that no record names, files of no entry, dead leases and uploads.

Ages are by the storage's clock. What is younger than a day always stays, since another host may be uploading it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lightexp.core.folder_storage import UPLOADS
from lightexp.core.object_storage import StorageRefused, StorageUnavailable, StoredObject, StoredUpload
from lightexp.core.parallel_requests import request_parallel
from lightexp.core.remote_lease import LEASES
from lightexp.core.remote_store import CALLS, RemoteStore
from lightexp.core.store_entry import MANIFEST
from lightexp.core.store_gc import StoreItem, select_evictable

MINIMUM_AGE_S = 86_400.0
_BATCH_ENTRIES = 50  # removed between two looks for new records


@dataclass(frozen=True)
class Garbage:
    """What may be removed.

    Attributes:
        entries: Entries, the oldest first, with their objects.
        files: Files in folders of entries that stay, of which no manifest names them.
        leftovers: Leases that no living process has, outcomes of tasks that a killed command has left, and in a folder
            files that a process has not completed.
        uploads: Uploads of large files that were never completed; None if the storage does not list them.
        unreadable: Keys of entries that stay and have no sound manifest, so that none of their files is removed.
    """

    entries: list[tuple[StoreItem, list[StoredObject]]]
    files: list[StoredObject]
    leftovers: list[StoredObject]
    uploads: list[StoredUpload] | None
    unreadable: list[str]


def find_garbage(
    remote: RemoteStore,
    read_named: Callable[[], Container[str]],
    older_than: float | None,
    max_size: float | None,
    now: float | None,
) -> Garbage:
    """Find what may be removed.

    Args:
        remote: The remote store.
        read_named: Returns the keys that records name. It is called after the entries are listed, so that an entry
            that is uploaded meanwhile stays.
        older_than: See `select_evictable`.
        max_size: See `select_evictable`.
        now: The present time by the storage's clock, in seconds since the epoch. If it is not known, None: when its
            newest object of an entry was written.
    """
    objects = remote.list_entries()
    if now is None:
        now = max((stored.time or 0.0 for group in objects.values() for stored in group), default=0.0)
    items = sorted(_make_items(objects, now), key=lambda item: item.last_use_time)
    evictable = select_evictable(items, now, max(older_than or 0.0, MINIMUM_AGE_S), max_size, read_named())
    staying = objects.keys() - {item.key for item in evictable}
    orphans, unreadable = _find_orphans(remote, {key: objects[key] for key in staying})
    return Garbage(
        [(item, objects[item.key]) for item in evictable],
        list(_select_old(orphans, now)),
        list(_find_leftovers(remote, now)),
        _find_dead_uploads(remote, now),
        unreadable,
    )


def remove_garbage(
    remote: RemoteStore,
    garbage: Garbage,
    read_named: Callable[[], Container[str]],
    on_remove: Callable[[StoreItem], None],
) -> None:
    """Remove what `find_garbage` has selected.

    Args:
        remote: The remote store.
        garbage: What to remove.
        read_named: Returns the keys that records name by now, new records included; their entries stay.
        on_remove: Called with each entry that has been removed.
    """
    for first in range(0, len(garbage.entries), _BATCH_ENTRIES):
        named = read_named()
        batch = garbage.entries[first : first + _BATCH_ENTRIES]
        removable = [(item, objects) for item, objects in batch if item.key not in named]
        remote.remove([stored for _, objects in removable for stored in objects])
        for item, _ in removable:
            on_remove(item)
    remote.remove([*garbage.files, *garbage.leftovers])
    for upload in garbage.uploads or []:
        remote.storage.abort_upload(upload)


def read_storage_clock(remote: RemoteStore) -> float | None:
    """Return the present time by the storage's clock, by writing an object; None if the storage does not say it."""
    name = f"{LEASES}/clock-{time.time_ns()}"
    remote.storage.write(name, b"")
    try:
        return remote.storage.read_time(name)
    finally:
        remote.storage.remove(name)


def has_manifest(objects: Iterable[StoredObject]) -> bool:
    """Check whether an entry's objects are complete, as far as their names say it."""
    return any(stored.name.endswith(f"/{MANIFEST}") for stored in objects)


def _make_items(entries: dict[str, list[StoredObject]], now: float) -> Iterator[StoreItem]:
    for key, objects in entries.items():
        written = max(now if stored.time is None else stored.time for stored in objects)
        kind = "entry" if has_manifest(objects) else "incomplete"
        yield StoreItem(key, kind, Path(), key, sum(stored.bytes for stored in objects), written, written, "idle")


def _find_orphans(remote: RemoteStore, entries: dict[str, list[StoredObject]]) -> tuple[list[StoredObject], list[str]]:
    """Find the files of complete entries that their manifests do not name, which another host's manifest named.

    Returns:
        The files, and the keys of entries without a sound manifest.
    """
    complete = [key for key, objects in entries.items() if has_manifest(objects)]
    orphans: list[StoredObject] = []
    unreadable = []
    for key, digests in zip(complete, request_parallel(remote.read_digests, complete), strict=True):
        if digests is None:
            unreadable.append(key)
        else:
            names = {*digests, MANIFEST}
            orphans += (stored for stored in entries[key] if stored.name.rpartition("/")[2] not in names)
    return orphans, unreadable


def _find_leftovers(remote: RemoteStore, now: float) -> Iterator[StoredObject]:
    """Yield what dead processes have left. A command lives while one of its objects or its tasks' leases is young."""
    leases = list(remote.storage.list_objects(LEASES))
    dead_leases = list(_select_old(leases, now))
    yield from dead_leases
    yield from _select_old(remote.storage.list_objects(UPLOADS), now)
    calls: dict[str, list[StoredObject]] = {}
    for stored in remote.storage.list_objects(CALLS):
        calls.setdefault(stored.name.split("/")[1], []).append(stored)
    living = [lease.name for lease in set(leases).difference(dead_leases)]
    for call, outcomes in calls.items():
        old = list(_select_old(outcomes, now))
        if len(old) == len(outcomes) and not any(name.startswith(f"{LEASES}/{call}-") for name in living):
            yield from old


def _find_dead_uploads(remote: RemoteStore, now: float) -> list[StoredUpload] | None:
    try:
        uploads = remote.storage.list_uploads()
    except (StorageRefused, StorageUnavailable):  # a right, or a request, that not every storage has
        return None
    return [upload for upload in uploads if now - upload.time >= MINIMUM_AGE_S]


def _select_old(objects: Iterable[StoredObject], now: float) -> Iterator[StoredObject]:
    return (stored for stored in objects if stored.time is not None and now - stored.time >= MINIMUM_AGE_S)
