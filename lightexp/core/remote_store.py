"""Store entries and records in object storage, shared by hosts that share no disk.

Layout below the address:

    lightexp-store.json              the format
    entries/ab/KEY/SHA256            a file of an entry, named by its digest
    entries/ab/KEY/manifest.json     the entry's manifest, written last: without it there is no entry
    records/RUN.json                 the record of a run, which names the keys it needs
    leases/KEY                       see `remote_lease`
    calls/CALL/...                   outcomes of a command's tasks; see `lightexp.ablation.remote_tasks`

Since files are named by their digests, the uploads of two hosts never mix, and whichever manifest is there is complete.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from lightexp.core.errors import BadInput
from lightexp.core.json_text import encode_json
from lightexp.core.object_storage import ObjectStorage, ObjectTooLarge, StorageRefused, StorageUnavailable, StoredObject
from lightexp.core.parallel_requests import request_parallel
from lightexp.core.regular_files import read_bytes
from lightexp.core.store_entry import ENTRIES, MANIFEST, read_entry

FORMAT = 1
MARKER = "lightexp-store.json"
RECORDS, CALLS = "records", "calls"
_NAME_BYTES = 255  # of a file; file systems take no longer ones
_CHECKED_BYTES = 1_000_000  # from here on it is cheaper to ask whether a file has been uploaded than to upload it
_LISTING_S = 600.0  # for all objects of a kind: storage lists 1,000 in a request
_KEY = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"(?!\.\.?\Z)[^/\0]+")  # of a file in a folder, whatever a plugin names it

Fetched = Literal["sound", "absent", "damaged"]


class RemoteStore:
    """A store in object storage. Its methods raise what `ObjectStorage` raises.

    Attributes:
        storage: The objects.
        url: Their address.
    """

    def __init__(self, storage: ObjectStorage) -> None:
        """Contact nothing yet."""
        self.storage, self.url = storage, storage.url
        self._has_marker = False

    def connect(self) -> None:
        """Check that there is a store of a known format, or a bucket for one.

        Raises:
            BadInput: If the bucket does not exist, a newer version of lightexp made the store, or it is a local one.
        """
        try:
            content = self.storage.read(MARKER)
        except FileNotFoundError:
            if not self.storage.has_bucket():
                raise BadInput(f"{self.url}: there is no such bucket. Create it, or correct store.remote.") from None
            self._refuse_local_store()
            return
        try:
            number = int(json.loads(content)["format"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise StorageUnavailable(
                f"{self.url} cannot be used ({MARKER} is not lightexp's; a proxy may have answered)."
            ) from None
        if number > FORMAT:
            raise BadInput(
                f"{self.url} is of format {number}; this lightexp knows {FORMAT}. Upgrade it, or set another prefix."
            )
        self._has_marker = True

    def _refuse_local_store(self) -> None:
        """Refuse entries without a marker: `store gc --remote` would remove the files of a local store."""
        with suppress(StorageRefused):  # some policies do not allow to list
            has_entries = any(stored.name.startswith(f"{ENTRIES}/") for stored in self.storage.list_objects(ENTRIES))
            if has_entries and self.storage.read_size(MARKER) is None:  # another host may have begun meanwhile
                raise BadInput(
                    f"{self.url} has entries, but no {MARKER}: it is a host's own store. Set another folder or prefix."
                )

    def _write_marker(self) -> None:
        """Write the format, before anything else is written."""
        if not self._has_marker:
            with suppress(FileExistsError):  # another host was faster
                self.storage.write(MARKER, encode_json({"format": FORMAT}).encode(), create=True)
        self._has_marker = True

    def has(self, key: str) -> bool:
        """Check whether there is an entry of a key; it may still prove damaged when it is fetched."""
        return self.storage.read_size(_place(key, MANIFEST)) is not None

    def fetch(self, key: str, folder: Path) -> Fetched:
        """Write the files of an entry into an empty folder, and verify them.

        Returns:
            Whether the folder now holds a sound entry; if not, it may hold any files.
        """
        try:
            content = self.storage.read(_place(key, MANIFEST))
        except FileNotFoundError:
            return "absent"
        except ObjectTooLarge:
            return "damaged"
        files = _list_files(content)
        if files is None:
            self.connect()  # raises if a proxy answers everything with its own page
            return "damaged"
        (folder / MANIFEST).write_bytes(content)
        for name, digest in files.items():
            size = self.storage.read_size(_place(key, digest))
            if size is None:
                return "damaged"
            with suppress(FileNotFoundError):  # removed in this moment
                self.storage.download(_place(key, digest), folder / name, size)
        return "sound" if is_sound(key, folder) else "damaged"

    def upload(self, key: str, folder: Path, replace: bool = False) -> bool:
        """Upload the sound entry in a folder, unless there is one.

        Args:
            key: Its key.
            folder: Its folder.
            replace: Whether to overwrite the entry that is there. Defaults to False.

        Returns:
            Whether it was uploaded.
        """
        self._write_marker()
        if not replace and self.has(key):
            return False
        try:
            content = read_bytes(folder / MANIFEST)
        except OSError:
            content = b""
        files = _list_files(content)
        if files is None:  # it was removed or altered since it was verified
            return False
        for name, digest in files.items():
            size, place = (folder / name).stat().st_size, _place(key, digest)
            if replace or size < _CHECKED_BYTES or self.storage.read_size(place) != size:
                self.storage.upload(folder / name, place)
        try:
            self.storage.write(_place(key, MANIFEST), content, create=not replace)
        except FileExistsError:  # another host made it too
            return False
        return True

    def read_digests(self, key: str) -> set[str] | None:
        """Return the digests by which an entry's files are named; None if there is no sound manifest."""
        with suppress(FileNotFoundError, ObjectTooLarge):
            files = _list_files(self.storage.read(_place(key, MANIFEST)))
            return None if files is None else set(files.values())
        return None

    def list_entries(self) -> dict[str, list[StoredObject]]:
        """Return the objects of all entries by key, those of incomplete entries included."""
        entries: dict[str, list[StoredObject]] = {}
        for stored in self._list_objects(ENTRIES):
            parts = stored.name.split("/")
            if len(parts) == 4 and _KEY.fullmatch(parts[2]) and parts[1] == parts[2][:2]:
                entries.setdefault(parts[2], []).append(stored)
        return entries

    def _list_objects(self, prefix: str) -> list[StoredObject]:
        """Return all objects below a prefix, of which a page that a proxy gives in place of a listing has none."""
        listed = self.storage.list_objects(prefix, _LISTING_S)
        objects = [stored for stored in listed if stored.name.startswith(f"{prefix}/")]  # s3fs takes a page for a file
        if not objects:
            self.connect()  # raises if a proxy answers everything with its own page
        return objects

    def remove(self, objects: list[StoredObject]) -> None:
        """Remove objects, the manifests of entries first."""
        names = [stored.name for stored in objects]
        manifests = [name for name in names if name.endswith(f"/{MANIFEST}")]
        for group in (manifests, set(names).difference(manifests)):
            deque(request_parallel(self.storage.remove, group), maxlen=0)

    def write_record(self, run_id: str, text: str) -> None:
        """Write the JSON of a run's record, in place of an earlier one."""
        self._write_marker()
        self.storage.write(f"{RECORDS}/{run_id}.json", text.encode(errors="backslashreplace"))

    def read_record(self, run_id: str) -> bytes:
        """Return the JSON of a run's record; raises FileNotFoundError if there is none."""
        return self.storage.read(f"{RECORDS}/{run_id}.json")

    def remove_record(self, run_id: str) -> None:
        """Remove the record of a run, if there is one."""
        self.storage.remove(f"{RECORDS}/{run_id}.json")

    def list_records(self) -> Iterator[str]:
        """Yield the ids of all runs that have a record."""
        for stored in self._list_objects(RECORDS):
            name = stored.name.removeprefix(f"{RECORDS}/")
            if name.endswith(".json") and "/" not in name:  # what others have put there is no record
                yield name.removesuffix(".json")


def is_sound(key: str, folder: Path) -> bool:
    """Check every byte of an entry's files; one of version 0.1, whose facts have no digest, is not sound."""
    entry = read_entry(key, folder)
    return entry is not None and entry.has_manifest_digest


def _place(key: str, name: str) -> str:
    return f"{ENTRIES}/{key[:2]}/{key}/{name}"


def _list_files(content: bytes) -> dict[str, str] | None:
    """Return the digests of a manifest's files by their names; None if it is no manifest, or a name is a path."""
    try:
        files: Any = json.loads(content)["files"]
        items = dict(files.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    for name, digest in items.items():
        if not (_is_file_name(name) and isinstance(digest, str) and _DIGEST.fullmatch(digest)):
            return None
    return items if MANIFEST not in items else None


def _is_file_name(name: str) -> bool:
    """Check whether a name can be that of a file in a folder."""
    try:
        return bool(_FILE_NAME.fullmatch(name)) and len(os.fsencode(name)) <= _NAME_BYTES
    except UnicodeEncodeError:
        return False
