"""A worker that ends the processes of a launcher with the command that started them.

joblib's processes do not notice the command's death before they have been given a job, and would wait for minutes. All
processes that a launcher starts inherit the environment variable `LAUNCH_VARIABLE`, by which this worker finds them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

from lightexp.execution.process import LAUNCH_VARIABLE, ParentConnection, WorkerProcess

_POLL_S = 0.1
_guard: WorkerProcess | None = None
_launch = ""


def start_guard() -> None:
    """Start the worker, unless it runs already: what this process starts from now on ends if it is killed."""
    global _guard, _launch
    if _guard is None or not _guard.is_running:
        _launch = uuid.uuid4().hex
        _guard = WorkerProcess("lightexp.execution.launch_guard", _launch)
    os.environ[LAUNCH_VARIABLE] = _launch  # which a worker of the Python API drops between two calls


def _kill_launched(launch: str) -> None:
    """Kill the processes of a launch on this host until none is left."""
    while pids := _find_launched(launch):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _find_launched(launch: str) -> list[int]:
    variable = f"{LAUNCH_VARIABLE}={launch}".encode()
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if variable in (entry / "environ").read_bytes().split(b"\0"):
                pids.append(int(entry.name))
    return pids


def main() -> None:
    """Wait for the command's death. A command that ends by itself ends this process first."""
    parent = ParentConnection()
    while parent.receive() is not None:
        pass
    _kill_launched(sys.argv[1])


if __name__ == "__main__":
    main()
