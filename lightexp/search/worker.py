"""The worker process of a study, which runs one trial after another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from lightexp.core.protocols import Progress
from lightexp.core.record import StageRecord
from lightexp.execution.process import ParentConnection
from lightexp.execution.work import Events, run_tasks
from lightexp.search.trial_source import TrialOrder, TrialReporter, TrialSource

_ACTIVITY_INTERVAL_S = 0.5


def main() -> None:
    """Open the study that the parent names and run its trials until none is left."""
    parent = ParentConnection()
    request = parent.receive()
    if request is None:
        return
    source = TrialSource.open(TrialOrder(**request.content), EventReporter(Events(parent)))
    run_tasks(source, parent, source.study.spec.settings.plain["plugins"])


class EventReporter(TrialReporter):
    """Reports a trial's progress to the command, at most twice a second."""

    def __init__(self, events: Events) -> None:
        """Report nothing yet."""
        self._events = events
        self._reported_at = 0.0

    def say(self, message: str) -> None:
        """Show the user a line."""
        self._events.report_message(message)

    def finished(self, stage: StageRecord) -> None:
        """Report nothing: the next stage's start says it."""

    def report_activity(self, text: str) -> None:
        """Report what the trial is doing, unless that has been done within the last half second."""
        if time.monotonic() - self._reported_at > _ACTIVITY_INTERVAL_S:
            self._reported_at = time.monotonic()
            self._events.report_activity(text)

    @contextmanager
    def stage(self, name: str, number: int, of: int) -> Iterator[Progress]:
        """Report a stage's progress."""
        self.report_activity(name)
        yield _StageProgress(self, name)


class _StageProgress:
    def __init__(self, reporter: EventReporter, stage: str) -> None:
        self._reporter, self._stage = reporter, stage

    def step(self, done: float, total: float, **figures: float) -> None:
        self._reporter.report_activity(f"{self._stage} {done:.0f}/{total:.0f}")
        if self._reporter.epochs:
            self._reporter.epochs.step(self._stage, done, total, figures)

    def say(self, message: str) -> None:
        self._reporter.report_activity(f"{self._stage}: {message}")


if __name__ == "__main__":
    main()
