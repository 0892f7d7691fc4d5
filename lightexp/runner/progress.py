"""Who watches a run: what the runner says while it works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from lightexp.core.protocols import Progress
from lightexp.core.record import StageRecord


class ProgressReporter(Protocol):
    """Shows a run's progress."""

    def say(self, words: str) -> None:
        """Shows one line."""

    def stage(self, name: str, number: int, of: int) -> AbstractContextManager[Progress]:
        """Opens the progress of stage `name`, the `number`th `of` all."""

    def finished(self, stage: StageRecord) -> None:
        """Shows that a stage's artifact is there, made or found."""


class SilentReporter:
    """Shows nothing; for Python users and tests."""

    def say(self, words: str) -> None:
        """Shows nothing."""

    def finished(self, stage: StageRecord) -> None:
        """Shows nothing."""

    @contextmanager
    def stage(self, name: str, number: int, of: int) -> Iterator[Progress]:
        """Opens progress that nobody sees."""
        yield _NoProgress()


class _NoProgress:
    def step(self, done: float, total: float, **figures: float) -> None: ...

    def say(self, words: str) -> None: ...
