"""Notes of the state in which each run was uploaded, so that `track sync` need not ask MLflow about every run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lightexp.core.json_text import encode_json
from lightexp.core.record import RECORD_FILE, Record
from lightexp.core.regular_files import read_text, replace_file
from lightexp.tracking.run_uploader import list_files

NOTES_FOLDER = ".uploaded"
"""The folder of all notes in the folder of all runs."""
_VERSION = 1  # raise it when runs get more in MLflow than before, so that they are compared again


class UploadNotes:
    """Notes of the runs in a folder: a file for each run, with a digest of what each place in MLflow got of it.

    Where somebody has put a link in the place of the notes' folder, nothing is noted or removed behind it.
    """

    def __init__(self, runs: Path) -> None:
        """Read nothing yet.

        Args:
            runs: The folder of all runs.
        """
        self._folder = runs / NOTES_FOLDER

    def add(self, folder: Path, record: Record, place: Sequence[object]) -> None:
        """Note that a place has the present state of a run; nothing happens where this cannot be read or noted.

        Args:
            folder: The run's folder.
            record: Its record.
            place: JSON values that name the place: the store, the experiment, and the settings of what it gets.
        """
        if self._folder.is_symlink():
            return
        with suppress(OSError):  # the next synchronization then compares the run again
            states = self._read(record.id) | {_hash(place): _hash_state(folder, record)}
            self._folder.mkdir(exist_ok=True)
            replace_file(self._folder / f"{record.id}.json", f"{encode_json(states)}\n".encode())

    def has(self, folder: Path, record: Record, place: Sequence[object]) -> bool:
        """Return whether a place got the present state of a run, and the record says which MLflow run it is.

        Args:
            folder: The run's folder.
            record: Its record.
            place: See `add`.
        """
        is_recorded = "run_id" in record.mlflow and "missing" not in record.mlflow
        state = self._read(record.id).get(_hash(place)) if is_recorded else None
        try:
            return state is not None and state == _hash_state(folder, record)
        except OSError:  # a file has just been removed
            return False

    def remove_orphans(self) -> None:
        """Remove the notes of runs whose folders were removed."""
        if self._folder.is_symlink():
            return
        with suppress(OSError):  # what stays does no harm
            for path in self._folder.glob("*.json"):
                if not (self._folder.parent / path.stem).exists():
                    path.unlink(missing_ok=True)

    def _read(self, run_id: str) -> dict[str, str]:
        """Return the digests of a run's uploaded states by place; none if its note is missing or damaged."""
        try:
            states = json.loads(read_text(self._folder / f"{run_id}.json"))
        except (OSError, ValueError, RecursionError):
            return {}
        return states if isinstance(states, dict) else {}


def _hash_state(folder: Path, record: Record) -> str:
    """Return a digest of what is uploaded of a run: its record, and the sizes and times of its other files."""
    stats = [(path, path.stat()) for path in list_files(folder) if path.name != RECORD_FILE]
    files = [(path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    return _hash([replace(record, mlflow={}).to_json(), files])


def _hash(content: Sequence[object]) -> str:
    return hashlib.sha256(encode_json([_VERSION, *content]).encode()).hexdigest()
