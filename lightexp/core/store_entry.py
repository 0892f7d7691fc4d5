"""An entry of the store: its files, the manifest with their digests, and its lock."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
ENTRIES = "entries"
"""The folder of all entries in a store."""
KEY_CHARS = 12
"""Characters of a store key that users are shown."""
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL)
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_LOCKS_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


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


def write_manifest(manifest: dict[str, Any], folder: Path) -> None:
    """Write the manifest, and the digest of all that it says."""
    manifest["files"][MANIFEST_DIGEST] = ""
    digest = hashlib.sha256(encode_json(manifest, indent=1).encode()).hexdigest()
    (folder / MANIFEST_DIGEST).write_text(digest, encoding="utf-8")
    manifest["files"][MANIFEST_DIGEST] = hash_file(folder / MANIFEST_DIGEST)
    (folder / MANIFEST).write_text(encode_json(manifest, indent=1), encoding="utf-8")


def read_entry(key: str, folder: Path) -> Entry | None:
    """Return the entry in a folder if its manifest and files are as they were written; None if not.

    Raises:
        OSError: If the process has too many open files or too little memory, which says nothing about the entry.
    """
    try:
        return _read_sound_entry(key, folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno in _EXHAUSTED:
            raise
        return None


def _read_sound_entry(key: str, folder: Path) -> Entry | None:
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
    facts, seconds = manifest["facts"], float(manifest["seconds"])
    if not isinstance(facts, dict) or not 0 <= seconds < math.inf:  # of a stranger, whose digests can be right
        return None
    return Entry(key, folder, facts, seconds, has_digest)


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


def fsync_path(path: Path) -> None:
    """Write a file's bytes, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
