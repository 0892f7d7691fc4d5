"""Read the records of all runs in a folder, and build a pandas table of them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightexp.core.errors import BadInput
from lightexp.core.formatting import strip_controls
from lightexp.core.record import RECORD_FILE, Record, read_record

if TYPE_CHECKING:
    import pandas

RUNS = "runs"
"""The folder of all runs in the outputs folder."""
FRONT_FILE = "front.json"
"""The file of a study's folder that describes its front."""
MAX_COMPLAINTS = 20
"""Number of lines that a command says at most about records that it cannot use."""
_TRIAL_PATTERNS = ("trials/*", "*/trials/*", "searches/*/trials/*")
"""Where trials are below a study's folder, the folder of all studies, and an outputs folder."""


def list_run_folders(where: Path | str, skipped: Collection[str] = ()) -> list[Path]:
    """Return the folders of the runs below a folder, in the order of their names.

    Args:
        where: An outputs folder, its `runs/`, or one run's folder. Folders below it without a record are ignored; one
            that cannot be looked into is returned, so that reading its record says why.
        skipped: Names of folders to leave out. Defaults to none.

    Raises:
        BadInput: If `where` is not a folder, or cannot be listed.
    """
    root = Path(where).expanduser()
    if _may_exist(f"{root}/{RECORD_FILE}"):
        return [root]
    if not root.is_dir():
        raise BadInput(f"{root} is not a folder. Name an outputs folder, its {RUNS}/, or one run's folder.")
    runs = root / RUNS if (root / RUNS).is_dir() else root
    try:
        with os.scandir(runs) as entries:  # half the time that Path.glob takes
            names = [entry.name for entry in entries if entry.name not in skipped]
    except OSError as error:
        raise _explain_unreadable(error) from None
    return [runs / name for name in sorted(names) if _may_exist(f"{runs}/{name}/{RECORD_FILE}")]


def list_study_folders(outputs: Path) -> list[Path]:
    """Return the folders of the studies in an outputs folder that have trials, in the order of their names.

    Raises:
        BadInput: If the folder of all studies cannot be listed.
    """
    try:
        with os.scandir(outputs / "searches") as entries:
            return sorted(Path(entry.path) for entry in entries if _may_exist(f"{entry.path}/trials"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _explain_unreadable(error) from None


def _may_exist(path: str) -> bool:
    """Return whether something is at a path: also a link that leads nowhere, or what is in a folder without access."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # no access, or the folder is a link to itself
        return True
    return True


def _explain_unreadable(error: OSError) -> BadInput:
    return BadInput(f"{error.filename} cannot be read: {error.strerror}. Change its permissions, or move it away.")


def list_trial_folders(where: Path | str) -> list[Path]:
    """Return the folders of the trials of searches below a folder, in the order of their names.

    Args:
        where: An outputs folder, its `searches/`, or one study's folder. Folders without a record are ignored.
    """
    root = Path(where).expanduser()
    folders = (folder for pattern in _TRIAL_PATTERNS for folder in root.glob(pattern))
    return sorted(folder for folder in folders if _may_exist(f"{folder}/{RECORD_FILE}"))


def read_folders(folders: Iterable[Path]) -> tuple[list[Record], list[str]]:
    """Read the records of some run folders.

    Args:
        folders: Folders that hold a record.

    Returns:
        The sound records, oldest first, and a message for each that cannot be read.
    """
    records: list[Record] = []
    messages: list[str] = []
    for folder in folders:
        try:
            records.append(read_record(folder))
        except BadInput as error:
            messages.append(str(error))
    return sorted(records, key=lambda record: record.started), messages


def limit_complaints(complaints: Sequence[str]) -> list[str]:
    """Return the first lines about records that cannot be used, and if there are more, a line that counts all.

    Example:
        >>> limit_complaints(["a", "b"])
        ['a', 'b']
    """
    listed = list(complaints[:MAX_COMPLAINTS])
    if len(complaints) > MAX_COMPLAINTS:
        listed.append(f"{len(complaints):,} records are left out in all; the first {MAX_COMPLAINTS} are named")
    return listed


FIXED_COLUMNS = (
    "id",
    "name",
    "status",
    "reason",
    "started",
    "seconds",
    "seed",
    "model",
    "dataset",
    "pipeline",
    "varied",
)
"""Columns that every table of runs has, before those of settings and metrics."""


def build_frame(records: list[Record]) -> pandas.DataFrame:
    """Return runs as a table with one row per run.

    Args:
        records: The runs, in the order of the rows.

    Returns:
        A table with the columns `id`, `name`, `status`, `reason`, `started` (UTC), `seconds` (NaN if the run has not
        ended), `seed`, `model`, `dataset`, `pipeline` (its stages) and `varied` (the overrides); then a column for each
        setting that any run overrides, with its value in every run; then one for each metric of the shipped file.
    """
    import pandas

    overridden = dict.fromkeys(_parse_setting(override) for record in records for override in record.varied)
    settings = [
        name
        for name in overridden
        if name not in FIXED_COLUMNS and any(_get_value(record.config, name) is not None for record in records)
    ]
    rows = []
    for record in records:
        row = dict(zip(FIXED_COLUMNS, _list_fixed_values(record), strict=True))
        row |= {name: _get_value(record.config, name) for name in settings}
        row |= record.metrics
        rows.append({strip_controls(n): strip_controls(v) if isinstance(v, str) else v for n, v in row.items()})
    metrics = (name for record in records for name in record.metrics)
    columns = dict.fromkeys(map(strip_controls, (*FIXED_COLUMNS, *settings, *metrics)))
    table = pandas.DataFrame(rows, columns=list(columns))
    table["started"] = pandas.to_datetime(table["started"], unit="s", utc=True)
    return table


def _list_fixed_values(record: Record) -> list[Any]:
    """Return the values of `FIXED_COLUMNS`."""
    seconds = None if record.ended is None else record.ended - record.started
    model, dataset, pipeline = [*record.name.split(" ", 2), "", ""][:3]
    seed, varied = record.config.get("seed"), " ".join(record.varied)
    times = [record.started, seconds]
    return [record.id, record.name, record.status, record.reason, *times, seed, model, dataset, pipeline, varied]


def _parse_setting(override: str) -> str:
    """Return the name of the setting that an override changes."""
    return override.lstrip("+~").partition("=")[0]


def _get_value(config: Any, name: str) -> Any:
    """Return a setting's value by its dotted name; None if the setting is missing, a mapping or a list."""
    for part in name.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return None if isinstance(config, dict | list) else config
