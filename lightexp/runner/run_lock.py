"""Locks that say which runs are alive: one a run, which the operating system releases when its process dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lightexp.core.errors import BadInput
from lightexp.core.record import Record, read_run

_FOLDER = ".live"


@contextmanager
def hold(runs: Path, name: str) -> Iterator[None]:
    """Mark a run as alive while the context lasts.

    Args:
        runs: The folder of all runs.
        name: The run's id.
    """
    path = _make_lock_path(runs, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield
        path.unlink(missing_ok=True)


def reap_dead_runs(runs: Path, sync: Callable[[Path, Record], bool] | None = None) -> None:
    """Mark the runs whose processes have died as killed, in their records and where they are mirrored.

    A run whose process died after its end, while it was mirrored, is mirrored as the record has it.

    Args:
        runs: The folder of all runs.
        sync: Takes a run's folder and record, mirrors them, and returns whether nothing is left to do; otherwise a
            later call tries again. Defaults to mirroring nothing.
    """
    folder = runs / _FOLDER
    for path in [] if folder.is_symlink() else sorted(folder.glob("*.lock")):
        if path.is_symlink() or not path.is_file():
            continue  # no run has made it
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue  # alive
        try:
            if _reap(runs / path.stem, sync):
                path.unlink(missing_ok=True)
        finally:
            lock.release()


def is_alive(runs: Path, name: str) -> bool:
    """Return whether a run's process still works on it.

    Args:
        runs: The folder of all runs.
        name: The run's id.
    """
    path = _make_lock_path(runs, name)
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _make_lock_path(runs: Path, name: str) -> Path:
    return runs / _FOLDER / f"{name}.lock"


def _reap(folder: Path, sync: Callable[[Path, Record], bool] | None) -> bool:
    try:
        record = read_run(folder)
    except BadInput:
        return True  # killed before it had a record
    if record.status == "running":
        record.status, record.reason, record.ended = "killed", "its process was killed", time.time()
        record.write(folder)
    return sync is None or sync(folder, record)
