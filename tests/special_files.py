"""What can be in the place of a file, and a limit for the time that is spent on it."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

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
IRREGULAR = ("pipe", "link to itself", "link to a device")
"""Kinds that take the place of neither a file nor a folder."""


class DeadlineExceeded(BaseException):
    """Raised in a block that takes too long; what handles errors does not handle it."""


@contextmanager
def deadline(seconds: float = TIME_LIMIT_S) -> Iterator[None]:
    """Limit the time of a block, also if it waits in a system call, and its memory to some gigabytes."""

    def fail(number: int, frame: FrameType | None) -> None:
        raise DeadlineExceeded(f"it hangs: it has not ended after {seconds:g} seconds")

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
