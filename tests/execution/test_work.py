"""The loop of a worker: what it claims, reports and gives up."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.disk_errors import DiskFull
from lightexp.core.errors import RunFailed
from lightexp.execution.work import ClaimedTask, WorkSource, WorkStatus, run_tasks


class ListedSource(WorkSource):
    """Tasks in a list; None stands for a moment without a task."""

    def __init__(self, *actions: Callable[[], Any] | None) -> None:
        self.actions = list(actions)
        self.finished: dict[str, Any] = {}
        self.failed: dict[str, str] = {}
        self.given_back: list[str] = []

    def claim(self) -> ClaimedTask | None:
        if not self.actions:
            return None
        action = self.actions.pop(0)
        number = len(self.finished) + len(self.failed)
        return None if action is None else ClaimedTask(str(number), f"task {number}", action)

    def finish(self, task: ClaimedTask, result: Any) -> dict[str, Any]:
        self.finished[task.id] = result
        return {"result": result}

    def fail(self, task_id: str, reason: str) -> None:
        self.failed[task_id] = reason

    def give_back(self, task_id: str) -> None:
        self.given_back.append(task_id)

    def status(self) -> WorkStatus:
        return WorkStatus(len(self.actions), 0, 0, bool(self.actions), None)


class StubParent:
    """A parent that keeps a worker's events, and asks to stop after a number of them."""

    def __init__(self, stop_after: int = 99) -> None:
        self.events: list[dict[str, Any]] = []
        self._stop_after = stop_after

    @property
    def stop_requested(self) -> bool:
        return len(self.events) >= self._stop_after

    def wait_for_stop(self, timeout: float) -> bool:
        return self.stop_requested

    def send_event(self, **content: Any) -> None:
        self.events.append(content)


def raise_error(error: BaseException) -> Callable[[], Any]:
    def run() -> Any:
        raise error

    return run


def test_run_tasks_reports_results_and_failures() -> None:
    source, parent = ListedSource(lambda: 5, raise_error(RunFailed("no data")), lambda: 6), StubParent()
    run_tasks(source, parent)  # type: ignore[arg-type]
    assert (source.finished, source.failed) == ({"0": 5, "2": 6}, {"1": "no data"})
    assert parent.events == [
        {"event": "started", "task": "0", "name": "task 0"},
        {"event": "ended", "task": "0", "outcome": {"result": 5}},
        {"event": "started", "task": "1", "name": "task 1"},
        {"event": "ended", "task": "1", "outcome": {"failed": "no data"}},
        {"event": "started", "task": "2", "name": "task 2"},
        {"event": "ended", "task": "2", "outcome": {"result": 6}},
    ]


def test_unexpected_exception_fails_one_task_and_is_kept() -> None:
    source, parent = ListedSource(raise_error(KeyError("weights")), lambda: 1), StubParent()
    run_tasks(source, parent)  # type: ignore[arg-type]
    assert source.finished == {"1": 1}
    match = re.fullmatch(r"KeyError: 'weights' \(the traceback is in (\S+)\)", source.failed["0"])
    assert match is not None
    file = Path(match[1])
    assert "raise error" in file.read_text()
    file.unlink()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/file"), "The disk that holds /a/file is full."),
        (RuntimeError("HDF5: No space left on device"), "A disk is full."),
        (DiskFull("There is no space."), "There is no space."),
    ],
)
def test_full_disk_stops_the_worker_and_fails_no_task(error: Exception, reason: str) -> None:
    source, parent = ListedSource(raise_error(error), lambda: 1), StubParent()
    run_tasks(source, parent)  # type: ignore[arg-type]
    assert (source.given_back, source.finished, source.failed) == (["0"], {}, {})
    assert parent.events[-1]["event"] == "stopped"
    assert parent.events[-1]["reason"].removesuffix(" Free some space and run the same command.") == reason


def test_interrupted_task_is_neither_finished_nor_failed() -> None:
    source = ListedSource(raise_error(KeyboardInterrupt()), lambda: 1)
    run_tasks(source, StubParent())  # type: ignore[arg-type]
    assert (source.finished, source.failed) == ({}, {})


def test_run_tasks_waits_while_more_may_come() -> None:
    source = ListedSource(None, None, lambda: 1)
    run_tasks(source, StubParent())  # type: ignore[arg-type]
    assert source.finished == {"0": 1}


def test_run_tasks_stops_between_tasks() -> None:
    source = ListedSource(lambda: 1, lambda: 2, lambda: 3)
    run_tasks(source, StubParent(stop_after=3))  # type: ignore[arg-type]
    assert source.finished == {"0": 1, "1": 2}


@pytest.mark.parametrize("cause", ["SIGKILL", "exit code 1"])
def test_abandoned_task_fails_by_default(cause: str) -> None:
    source = ListedSource()
    assert source.abandon("0", cause) == f"its process died ({cause})"
    assert source.failed == {"0": f"its process died ({cause})"}
    assert not source.has_orphans()
