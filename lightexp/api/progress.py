"""Progress of a run, sent to the user's process as log messages."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lightexp.core.formatting import strip_controls
from lightexp.core.protocols import Progress
from lightexp.core.record import StageRecord
from lightexp.core.secrets import hide_secrets
from lightexp.execution.process import ParentConnection
from lightexp.runner.progress import ProgressReporter

_INTERVAL_S = 2.0  # between two messages on the epochs of a stage


class LogEventHandler(logging.Handler):
    """Sends log records of this process to the parent."""

    def __init__(self, parent: ParentConnection) -> None:
        """Send to `parent`."""
        super().__init__()
        self._parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        self._parent.send_event(log=hide_secrets(strip_controls(record.getMessage())), level=record.levelno)


class LogReporter(ProgressReporter):
    """Sends a run's progress to the parent."""

    def __init__(self, parent: ParentConnection) -> None:
        """Send to `parent`."""
        self._parent = parent

    def say(self, message: str) -> None:
        """Send one line."""
        self._parent.send_event(log=hide_secrets(strip_controls(message)), level=logging.INFO)

    def finished(self, stage: StageRecord) -> None:
        """Send that a stage's artifact exists."""
        origin = "from the store" if stage.from_store else f"{stage.seconds:.1f} s"
        self.say(f"{stage.name}: {origin}")

    @contextmanager
    def stage(self, name: str, number: int, of: int) -> Iterator[Progress]:
        """Open the progress of a stage."""
        if of > 1:
            self.say(f"{name}: stage {number} of {of}")
        yield _LogProgress(self, name)


class _LogProgress:
    """Sends the epochs of a stage, at most one message in two seconds."""

    def __init__(self, reporter: LogReporter, name: str) -> None:
        self._reporter, self._name = reporter, name
        self._sent_at = time.monotonic()

    def step(self, done: float, total: float, **metrics: float) -> None:
        now = time.monotonic()
        if metrics and done == int(done) and (done == total or now - self._sent_at > _INTERVAL_S):
            self._sent_at = now
            values = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
            self._reporter.say(f"{self._name}: epoch {done:.0f}/{total:.0f}  {values}")

    def say(self, message: str) -> None:
        self._reporter.say(f"{self._name}: {message}")
