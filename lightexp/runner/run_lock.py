"""Which runs are alive: a lock each, that dies with its process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lightexp.core.errors import BadInput
from lightexp.core.record import Record, read_record
from lightexp.tracking.mirror import Mirror

_FOLDER = ".live"


@contextmanager
def hold(runs: Path, name: str) -> Iterator[None]:
    """Marks a run as alive while the block lasts."""
    path = runs / _FOLDER / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield
        path.unlink(missing_ok=True)


def reap_dead_runs(runs: Path, mirror: Callable[[Record], Mirror]) -> None:
    """Marks as killed each run whose process has died without closing it, in its record and in its own mirror."""
    for path in sorted((runs / _FOLDER).glob("*.lock")):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue  # alive
        try:
            _close(runs / path.stem, mirror)
            path.unlink(missing_ok=True)
        finally:
            lock.release()


def is_alive(runs: Path, name: str) -> bool:
    """Whether a run's process still works on it."""
    path = runs / _FOLDER / f"{name}.lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _close(folder: Path, mirror: Callable[[Record], Mirror]) -> None:
    try:
        record = read_record(folder)
    except BadInput:
        return  # killed before it had a record
    if record.status == "running":
        record.status, record.reason, record.ended = "killed", "its process was killed", time.time()
        mirror(record).close(record)
        record.write(folder)
