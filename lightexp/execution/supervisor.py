"""A worker that runs another program, and ends it and all of its processes with the parent.

Usage: `WorkerProcess("lightexp.execution.supervisor", *command)`. It exits with the program's exit code; what the
program writes goes to the worker's standard error.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

from lightexp.execution.process import ParentConnection

SIGNALLED = 128
"""Added to the number of the signal that the program has died of, for the exit code."""
_GRACE_S = 10.0  # between SIGTERM and SIGKILL


def main() -> None:
    """Run the program named by the arguments and wait for its end, or for the parent's."""
    parent = ParentConnection()
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # after the start: the program must not ignore it
    orphaned = threading.Event()

    def end_with_parent() -> None:
        while parent.receive() is not None:
            pass
        orphaned.set()
        os.killpg(0, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            program.wait(_GRACE_S)
        os.killpg(0, signal.SIGKILL)

    watcher = threading.Thread(target=end_with_parent, daemon=True)
    watcher.start()
    code = program.wait()
    if orphaned.is_set():
        watcher.join()
    os.killpg(0, signal.SIGTERM)  # processes that the program has left behind
    sys.exit(code if code >= 0 else SIGNALLED - code)


if __name__ == "__main__":
    main()
