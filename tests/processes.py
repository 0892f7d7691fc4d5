"""Find the processes of one command, and those that are left of it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

MARKER = "LIGHTEXP_TEST_MARKER"
"""Environment variable that all processes of one command inherit."""


def find_processes(marker: str) -> dict[int, str]:
    """Return the command lines of the processes that have a marker in their environment, by process id."""
    processes = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if marker.encode() in (entry / "environ").read_bytes():
                processes[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return processes


def wait_for_end(marker: str, seconds: float) -> dict[int, str]:
    """Wait until no process has a marker, and return those that still have it when the time is over."""
    end = time.monotonic() + seconds
    while (left := find_processes(marker)) and time.monotonic() < end:
        time.sleep(0.05)
    return left
