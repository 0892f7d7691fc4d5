"""`lightexp store ls`: a table of entries with the runs that name them, or a line for each of all."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightexp.cli.printing import make_console, print_line
from lightexp.core.columns import MISSING
from lightexp.core.formatting import format_age, format_bytes
from lightexp.core.record import RECORD_FILE
from lightexp.core.records import limit_complaints, list_run_folders, list_study_folders
from lightexp.core.regular_files import read_bytes
from lightexp.core.store_entry import KEY_CHARS
from lightexp.core.store_gc import StoreItem, find_state
from lightexp.report.table import Table, TableColumn, build_rich_table, print_whole_words

_ROWS = 30
_KEY, _KEYS = re.compile(rb'"([0-9a-f]{64})"'), b'"keys": ['
_HEADINGS = ("Bytes", "Made", "Used")


def list_entries(outputs: Path, items: list[StoreItem], all_entries: bool, by_size: bool) -> int:
    """Print entries and the store's total, and return the exit code.

    Args:
        outputs: The folder of all outputs, whose records name entries.
        items: All entries, the least recently used first.
        all_entries: Whether to print each, as a line, instead of a table of a few.
        by_size: Whether the largest come last, and are those in the table, instead of the most recently used.
    """
    if by_size:
        items = sorted(items, key=lambda item: item.bytes)
    shown = items if all_entries else items[-_ROWS:]
    shown = [i._replace(state=find_state(i.folder)) if i.state == "idle" else i for i in shown]
    names, complaints = _find_names(outputs, {item.key for item in shown if item.state != "quarantined"})
    now = time.time()
    rows = (_make_row(item, names, now) for item in shown)
    if all_entries:
        for key, kind, *numbers, runs, state in rows:
            print_line("  ".join([key, *(f"{number:>10}" for number in numbers), f"{state:<11}", kind, runs]))
    else:
        _print_table(rows)
    print_line(f"{len(items):,} entries, {format_bytes(sum(item.bytes for item in items))}.")
    if len(shown) < len(items):
        order = "largest" if by_size else "most recently used"
        print_line(f"Only the {_ROWS} {order} are shown: --all lists every entry, --largest sorts by size.")
    for complaint in limit_complaints(complaints):
        print_line(f"Not counted: {complaint}")
    return 0


def _make_row(item: StoreItem, names: dict[str, list[str]], now: float) -> list[str]:
    runs = names.get(item.key, []) if item.state != "quarantined" else []
    ages = (format_age(now - item.creation_time), format_age(now - item.last_use_time))
    state = "" if item.state == "idle" else item.state
    return [item.key[:KEY_CHARS], item.kind, f"{item.bytes:,}", *ages, _summarize_names(runs), state]


def _print_table(rows: Iterable[list[str]]) -> None:
    from lightexp.cli.terminal import choose_width

    columns: list[TableColumn | str] = ["Key", "What", *map(TableColumn, _HEADINGS), "Runs that name it", ""]
    console = make_console(width=choose_width(sys.stdout))
    print_whole_words(console, build_rich_table(Table.from_text(columns, rows)))


def _summarize_names(names: list[str]) -> str:
    if not names:
        return MISSING
    return names[-1] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _find_names(outputs: Path, keys: set[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the runs and searches whose records hold each key, and a line for each file that cannot be read.

    The files are searched, not parsed, which would take a minute for a hundred thousand records.
    """
    names: dict[str, dict[str, None]] = {}
    complaints = []
    encoded_keys = {key.encode() for key in keys}
    for name, folder in iterate_records(outputs):
        try:
            content = read_bytes(folder / RECORD_FILE)
        except OSError as error:
            complaints.append(f"{folder / RECORD_FILE} cannot be read: {error.strerror}.")
            continue
        for key in encoded_keys.intersection(_find_keys(content)):
            names.setdefault(key.decode(), {})[name] = None
    return {key: list(of_key) for key, of_key in names.items()}, complaints


def _find_keys(content: bytes) -> list[bytes]:
    """Return the store keys in a record's list of them, or anywhere in a record without one."""
    start = content.find(_KEYS)
    listed = _KEY.findall(content, start, content.find(b"]", start)) if start >= 0 else []
    return listed or _KEY.findall(content)


def iterate_records(outputs: Path) -> Iterator[tuple[str, Path]]:
    """Yield the folder of each run and trial, with the name of its run or search."""
    for folder in list_run_folders(outputs):
        yield folder.name, folder
    for study in list_study_folders(outputs):
        for folder in list_run_folders(study / "trials"):
            yield f"search {study.name}", folder
