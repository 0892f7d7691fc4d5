"""Reading the records of a folder's runs, for tests of what commands have left."""

from __future__ import annotations

from pathlib import Path

from lightexp.core.record import Record
from lightexp.core.records import list_run_folders, read_folders


def load_records(where: Path | str) -> tuple[list[Record], list[str]]:
    """Return the sound records of the runs below a folder, oldest first, and a message for each of the others."""
    return read_folders(list_run_folders(where))
