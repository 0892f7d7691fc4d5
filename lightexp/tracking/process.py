"""The process that mirrors records into MLflow, from its parent's side.

This module imports nothing heavy, because the process is started before anything else: MLflow takes more than a second
to import and as long again to create its first database, and its libraries conflict with TensorFlow's.
"""

from __future__ import annotations

from lightexp.execution.process import WorkerProcess


class MirrorProcess(WorkerProcess):
    """The worker process that runs `lightexp.tracking.worker`."""

    def __init__(self) -> None:
        """Start the process, which imports MLflow at once."""
        super().__init__("lightexp.tracking.worker")
