"""What can be in the place of a file, and a limit for the time that is spent on it."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

TIME_LIMIT_S = 30.0
_MEMORY_LIMIT = 4 << 30  # bytes beyond what the process has; a device may have no end


def link_to_folder(path: Path) -> None:
    """Make a link to an empty folder next to it."""
    folder = path.with_name("folder-elsewhere")
    folder.mkdir(exist_ok=True)
    path.symlink_to(folder.name)


SPECIAL_FILES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "link to a folder": link_to_folder,
}
"""Functions that make at a path what is no file, by kind."""


@contextmanager
def deadline(seconds: float = TIME_LIMIT_S) -> Iterator[None]:
    """Fail the test if a block takes longer, also if it waits in a system call, or takes gigabytes of memory."""

    def fail(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"it hangs: it has not ended after {seconds:g} seconds")

    previous = signal.signal(signal.SIGALRM, fail)
    memory = resource.getrlimit(resource.RLIMIT_AS)
    present = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (present + _MEMORY_LIMIT, memory[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, memory)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
