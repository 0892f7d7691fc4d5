"""Work that several processes share: tasks, the source that hands them out, and the loop of a worker.

Workers pull: each claims the next task itself, under a lock that other processes and hosts respect. A search is a
source of trials, an ablation one of rows with seeds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lightexp.core import interrupt
from lightexp.core.disk_errors import DiskFull, describe_disk_full, is_disk_full
from lightexp.core.errors import LightexpError
from lightexp.core.exceptions import summarize_exception
from lightexp.execution.process import ParentConnection

STARTED, ENDED, ACTIVITY, MESSAGE, STOPPED = "started", "ended", "activity", "message", "stopped"
"""Kinds of a worker's events, the key `event` of each; see `Events`."""
_POLL_S = 0.5  # of a source that has no task at the moment


@dataclass(frozen=True)
class ClaimedTask:
    """A task that the calling process has claimed.

    Attributes:
        id: Identifies the task among all processes that share the source.
        name: For people, such as `trial 7`.
        run: Does the work and returns the result that `WorkSource.finish` takes.
    """

    id: str
    name: str
    run: Callable[[], Any]


@dataclass(frozen=True)
class WorkStatus:
    """How far the work is, on all hosts.

    Attributes:
        unclaimed: Number of tasks that nobody has claimed yet.
        running: Number of tasks in progress.
        ended: Number of tasks that have ended.
        may_grow: Whether a task may become available though none can be claimed now.
        progress: A value that changes whenever a task is claimed or ends.
        stop_reason: Why no further task is to be claimed, for the user. Defaults to None: go on.
    """

    unclaimed: int
    running: int
    ended: int
    may_grow: bool
    progress: Any
    stop_reason: str | None = None


class WorkSource(ABC):
    """Hands out tasks to this and other processes. The command and its workers have an object each.

    Attributes:
        noun: What a task is called in messages, in the plural.
    """

    noun = "tasks"

    @property
    def draining_message(self) -> str:
        """The message on the first Ctrl-C, if running tasks are finished."""
        return f"The running {self.noun} are being finished; Ctrl-C again drops them."

    @abstractmethod
    def claim(self) -> ClaimedTask | None:
        """Lock and return the next task; None if no task is free at the moment."""

    @abstractmethod
    def finish(self, task: ClaimedTask, result: Any) -> dict[str, Any]:
        """Record a task's result, release the task and return a summary of JSON types for the command."""

    @abstractmethod
    def fail(self, task_id: str, reason: str) -> None:
        """Record that a task has failed, and release it."""

    @abstractmethod
    def status(self) -> WorkStatus:
        """Return how far the work is."""

    def abandon(self, task_id: str, cause: str) -> str | None:
        """Handle the death of a worker that had claimed a task.

        Args:
            task_id: The task.
            cause: What the worker died of.

        Returns:
            Why the task has failed; None if another worker will claim it again.
        """
        reason = f"its process died ({cause})"
        self.fail(task_id, reason)
        return reason

    def give_back(self, task_id: str) -> None:
        """Return a claimed task to the queue: its worker cannot go on, and the task is not to blame."""

    def has_orphans(self) -> bool:
        """Return whether a task is in progress whose worker has died, so that another can claim it."""
        return False

    def requeue(self) -> None:
        """Return tasks whose workers have just been killed to the queue, for the next start of the command."""


class Events:
    """Sends a worker's events to the command."""

    def __init__(self, parent: ParentConnection) -> None:
        """Send nothing yet."""
        self._parent = parent

    def report_start(self, task: ClaimedTask) -> None:
        """Report that the worker has claimed a task."""
        self._parent.send_event(event=STARTED, task=task.id, name=task.name)

    def report_end(self, task: ClaimedTask, outcome: dict[str, Any]) -> None:
        """Report a task's outcome: the source's summary, or `failed` with the reason."""
        self._parent.send_event(event=ENDED, task=task.id, outcome=outcome)

    def report_stop(self, reason: str) -> None:
        """Report why no worker can go on; the worker's task was returned to the queue."""
        self._parent.send_event(event=STOPPED, reason=reason)

    def report_activity(self, text: str) -> None:
        """Report what the worker is doing, for a live display."""
        self._parent.send_event(event=ACTIVITY, text=text)

    def report_message(self, text: str) -> None:
        """Show the user a line."""
        self._parent.send_event(event=MESSAGE, text=text)


def run_tasks(source: WorkSource, parent: ParentConnection, plugins: Iterable[str] = ()) -> None:
    """Run one task after another until none is left, the command asks to stop, or the process is interrupted.

    A full disk stops all workers of the command, since every further task would fail too.

    Args:
        source: Hands out the tasks.
        parent: The connection to the command.
        plugins: The user's packages, named in the summary of an unexpected exception.
    """
    events = Events(parent)
    try:
        while not parent.stop_requested:
            if (task := source.claim()) is not None:
                if not _run_task(source, task, events, plugins):
                    return
            elif not source.status().may_grow:
                return
            else:
                parent.wait_for_stop(_POLL_S)
    except Exception as error:
        if not is_disk_full(error):
            raise
        events.report_stop(str(describe_disk_full(error)))


def _run_task(source: WorkSource, task: ClaimedTask, events: Events, plugins: Iterable[str]) -> bool:
    """Run a task and return whether the worker goes on.

    Raises:
        DiskFull: If there is no space for what the task makes. It was returned to the queue.
    """
    events.report_start(task)
    try:
        outcome = source.finish(task, task.run())
    except KeyboardInterrupt:
        return False
    except Exception as error:  # a stage of the user's may raise anything, and the other tasks go on
        if not isinstance(error, LightexpError) and interrupt.was_requested():
            return False
        failure = error if isinstance(error, LightexpError) else summarize_exception(error, plugins)
        if isinstance(failure, DiskFull):
            with suppress(OSError):  # else its lock, which ends with this process, tells others
                source.give_back(task.id)
            raise failure from None
        outcome = {"failed": str(failure)}
        source.fail(task.id, outcome["failed"])
    events.report_end(task, outcome)
    return True
