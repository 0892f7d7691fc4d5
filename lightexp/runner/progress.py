"""Progress of a run: the protocol of its receivers, and one that shows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from lightexp.core.protocols import Progress
from lightexp.core.record import StageRecord


class ProgressReporter(Protocol):
    """Receiver of a run's progress and messages."""

    def announce_run(self, message: str) -> None:
        """Show the line that a run begins with, which names its seed and folder. By default it is like any other."""
        self.say(message)

    def say(self, message: str) -> None:
        """Show one line."""

    def stage(self, name: str, number: int, of: int) -> AbstractContextManager[Progress]:
        """Open the progress of the stage `name`, number `number` of `of` stages."""

    def finished(self, stage: StageRecord) -> None:
        """Show that a stage's artifact is available, made or loaded from the store."""


class SilentReporter(ProgressReporter):
    """Receiver that shows nothing, for Python users and tests."""

    def say(self, message: str) -> None:
        """Do nothing."""

    def finished(self, stage: StageRecord) -> None:
        """Do nothing."""

    @contextmanager
    def stage(self, name: str, number: int, of: int) -> Iterator[Progress]:
        """Open progress that is not shown."""
        yield _NoProgress()


class _NoProgress:
    def step(self, done: float, total: float, **figures: float) -> None: ...

    def say(self, message: str) -> None: ...
