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
_decode = json.JSONDecoder().raw_decode  # twice as fast as json.loads, which also looks for what follows
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
        lines = _read_lines(root / INDEX)
        self._count = len(lines)
        self._lines = {_find_key(line): line for line in lines}  # of several lines of a key, the last is the newest
        self._used: list[str] = []
        self._added: list[IndexRow] = []

    def find(self, key: str, manifest: os.stat_result) -> IndexRow | None:
        """Return the row of an entry; None if the index has none of this manifest."""
        line = self._lines.get(key)
        row = None if line is None else _parse_row(line)
        if line is None or row is None or row[:3] != (key, manifest.st_ino, manifest.st_size):
            return None
        self._used.append(line)
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
                replace_file(self._root / INDEX, "\n".join([*self._used, _encode(self._added)]).encode())
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


def _read_lines(path: Path) -> list[str]:
    with suppress(OSError, ValueError):
        return read_bytes(path).decode(errors="replace").splitlines()  # a damaged line costs that line only
    return []


def _find_key(line: str) -> str:
    """Return the first text of a line, without parsing the rest."""
    return line.partition('"')[2].partition('"')[0]


def _parse_row(line: str) -> IndexRow | None:
    """Return a line's row; None if it is damaged."""
    try:
        values, _ = _decode(line)
    except (ValueError, RecursionError):
        return None
    if type(values) is not list or tuple(map(type, values)) != _TYPES:
        return None
    row = IndexRow._make(values)
    return row if row.bytes >= 0 and 0 <= row.creation_time < float("inf") else None
