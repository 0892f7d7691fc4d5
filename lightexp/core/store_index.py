"""Index of a store's entries: what listing them shows and never changes, so that no entry's folder is read for it.

The index is a file with a line of JSON for each entry, and a cache only: a row counts as long as the entry's manifest
is the same file of the same size. What it lacks, or was damaged, is read from the entries again.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lightexp.core.json_text import encode_json
from lightexp.core.regular_files import read_bytes, replace_file
from lightexp.core.store_entry import MANIFEST

INDEX = "index.jsonl"
_TYPES = (str, int, int, int, str, float)
_SURPLUS_ROWS = 1000  # of removed entries, that make the file no slower to read


class IndexRow(NamedTuple):
    """What the index says of an entry.

    Attributes:
        key: The store key.
        inode: The inode of its manifest.
        manifest_bytes: Size of its manifest.
        bytes: Size of all its files.
        kind: Description that its maker gave.
        creation_time: When it was made, in seconds since the epoch.
    """

    key: str
    inode: int
    manifest_bytes: int
    bytes: int
    kind: str
    creation_time: float


def make_row(folder: Path, manifest: dict[str, Any]) -> IndexRow:
    """Return the row of a complete entry; one of an odd manifest, which another host has made, is dropped when read."""
    status = os.stat(folder / MANIFEST)
    size = sum(path.lstat().st_size for path in folder.iterdir())
    kind, made = manifest.get("kind", ""), manifest.get("made", 0.0)
    return IndexRow(folder.name, status.st_ino, status.st_size, size, kind, made)


class StoreIndex:
    """The index of one store, read once."""

    def __init__(self, root: Path) -> None:
        """Read the index of the store at `root`, or start an empty one."""
        self._root = root
        rows = _read_rows(root / INDEX)
        self._count = len(rows)
        self._rows = {row.key: row for row in rows}  # of several rows of a key, the last is the newest
        self._used: list[IndexRow] = []
        self._added: list[IndexRow] = []

    def find(self, key: str, manifest: os.stat_result) -> IndexRow | None:
        """Return the row of an entry; None if the index has none of this manifest."""
        row = self._rows.get(key)
        if row is None or row.inode != manifest.st_ino or row.manifest_bytes != manifest.st_size:
            return None
        self._used.append(row)
        return row

    def add(self, row: IndexRow) -> None:
        """Add the row of an entry that was just read."""
        self._added.append(row)

    def save(self) -> None:
        """Append the added rows to the file, or write it again without the rows of removed entries, if these are many.

        A store that cannot be written keeps its index, or stays without one.
        """
        if self._count > 2 * len(self._used) + _SURPLUS_ROWS:
            with suppress(OSError):
                replace_file(self._root / INDEX, _encode([*self._used, *self._added]).encode())
        elif self._added:
            append_rows(self._root, self._added)


def append_rows(root: Path, rows: Iterable[IndexRow]) -> None:
    """Append rows to a store's index, in one write, so that other processes can append at the same time.

    Nothing happens if that is impossible, since the rows can be read from the entries.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with suppress(OSError), open(os.open(root / INDEX, flags, 0o666), "ab", buffering=0) as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.write(_encode(rows).encode())


def _encode(rows: Iterable[IndexRow]) -> str:
    return "".join(f"{encode_json(row)}\n" for row in rows)


def _read_rows(path: Path) -> list[IndexRow]:
    """Return the sound rows of an index; a damaged line costs that line only."""
    try:
        text = read_bytes(path).decode(errors="replace")
    except (OSError, ValueError):
        return []
    lines = text.splitlines()
    try:
        parsed = json.loads(f"[{','.join(lines)}]")  # at once, which takes two thirds of the time
    except (ValueError, RecursionError):
        parsed = [_parse_line(line) for line in lines]
    return [IndexRow._make(values) for values in parsed if _is_sound(values)]


def _parse_line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_sound(values: Any) -> bool:
    """Check that a line holds the values of a row."""
    if type(values) is not list or tuple(map(type, values)) != _TYPES:
        return False
    row = IndexRow._make(values)
    return row.bytes >= 0 and 0 <= row.creation_time < float("inf")
