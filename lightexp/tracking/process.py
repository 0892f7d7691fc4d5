"""The process that mirrors records, from its parent's side. Imports nothing heavy: it is started before all else.

MLflow takes more than a second to import, as long again to make its first database, and brings libraries that do not
bear being imported beside TensorFlow's.
"""

from __future__ import annotations

import subprocess
import weakref

from lightexp.execution.process import WorkerProcess, close


class MirrorProcess(WorkerProcess):
    """The process: `lightexp.tracking.worker`."""

    def __init__(self) -> None:
        """Starts the process, which imports MLflow at once."""
        super().__init__("lightexp.tracking.worker")
        weakref.finalize(self, _end, self.process)


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the process, which has answered every call and has nothing left to write."""
    process.kill()
    close(process)
