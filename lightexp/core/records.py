"""Many runs at once: their records, whatever state their folders are in, and one table of them for pandas."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightexp.core.errors import BadInput
from lightexp.core.record import RECORD_FILE, Record, read_record

if TYPE_CHECKING:
    import pandas

RUNS = "runs"
"""The folder of all runs in the outputs folder."""
_TRIAL_PATTERNS = ("trials/*", "*/trials/*", "searches/*/trials/*")
"""Where trials are below a study's folder, the folder of all studies, and an outputs folder."""


def list_run_folders(where: Path | str) -> list[Path]:
    """Return the folders of the runs below a folder, in the order of their names.

    Args:
        where: An outputs folder, its `runs/`, or one run's folder. Folders below it without a record are ignored.

    Raises:
        BadInput: If `where` is not a folder.
    """
    root = Path(where).expanduser()
    if not root.is_dir():
        raise BadInput(f"{root} is not a folder. Name an outputs folder, its {RUNS}/, or one run's folder.")
    if (root / RECORD_FILE).is_file():
        return [root]
    runs = root / RUNS if (root / RUNS).is_dir() else root
    return sorted(path.parent for path in runs.glob(f"*/{RECORD_FILE}"))


def list_trial_folders(where: Path | str) -> list[Path]:
    """Return the folders of the trials of searches below a folder, in the order of their names.

    Args:
        where: An outputs folder, its `searches/`, or one study's folder. Folders without a record are ignored.
    """
    root = Path(where).expanduser()
    return sorted(path.parent for pattern in _TRIAL_PATTERNS for path in root.glob(f"{pattern}/{RECORD_FILE}"))


def load_records(where: Path | str) -> tuple[list[Record], list[str]]:
    """Read the records of the runs below a folder.

    Args:
        where: See `list_run_folders`.

    Returns:
        The sound records, oldest first, and a message for each that cannot be read (cut short, or of another format).

    Raises:
        BadInput: If `where` is not a folder.
    """
    return read_folders(list_run_folders(where))


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


HEAD = ("id", "name", "status", "reason", "started", "seconds", "seed", "model", "dataset", "pipeline", "varied")


def build_frame(records: list[Record]) -> pandas.DataFrame:
    """Runs as a table, one a row.

    Columns: `id`, `name`, `status`, `reason`, `started` (UTC), `seconds` (NaN until it has ended), `seed`, `model`,
    `dataset`, `pipeline` (its stages) and `varied` (the overrides); then each setting that some run's override names,
    with the value that it has in every run; then every figure of the shipped file by its name.
    """
    import pandas

    named = dict.fromkeys(_setting(override) for record in records for override in record.varied)
    settings = [name for name in named if name not in HEAD and any(_value(r.config, name) is not None for r in records)]
    rows = [
        {**dict(zip(HEAD, _head(r), strict=True)), **{s: _value(r.config, s) for s in settings}, **r.metrics}
        for r in records
    ]
    figures = dict.fromkeys(name for record in records for name in record.metrics)
    table = pandas.DataFrame(rows, columns=[*HEAD, *settings, *figures])
    table["started"] = pandas.to_datetime(table["started"], unit="s", utc=True)
    return table


def _head(record: Record) -> list[Any]:
    """The values of `HEAD`."""
    seconds = None if record.ended is None else record.ended - record.started
    model, dataset, pipeline = [*record.name.split(" ", 2), "", ""][:3]
    seed, varied = record.config.get("seed"), " ".join(record.varied)
    times = [record.started, seconds]
    return [record.id, record.name, record.status, record.reason, *times, seed, model, dataset, pipeline, varied]


def _setting(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _value(config: Any, name: str) -> Any:
    """A setting's value by its dotted name; None where it is not there or is no plain value."""
    for part in name.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return None if isinstance(config, dict | list) else config
