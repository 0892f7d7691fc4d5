"""The pool of a launcher's jobs: launching again, giving up, and waiting for other hosts; with a launcher of stubs."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from lightexp.core.errors import BadInput, RunFailed
from lightexp.execution.launcher import LauncherPool, join_as_worker, launch_origin
from lightexp.execution.locks import CommandLease, FileLocks
from lightexp.execution.pool import PoolView
from lightexp.execution.work import ClaimedTask, WorkSource, WorkStatus


class CountingSource(WorkSource):
    """A number of tasks that jobs count down."""

    def __init__(self, tasks: int) -> None:
        self.tasks, self.done, self.running, self.stop_reason = tasks, 0, 0, None

    def claim(self) -> ClaimedTask | None:
        raise NotImplementedError

    def finish(self, task: ClaimedTask, result: Any) -> dict[str, Any]:
        raise NotImplementedError

    def fail(self, task_id: str, reason: str) -> None:
        raise NotImplementedError

    def status(self) -> WorkStatus:
        unclaimed = self.tasks - self.done - self.running
        return WorkStatus(unclaimed, self.running, self.done, False, self.done, self.stop_reason)


class ScriptedLauncher:
    """A launcher each of whose launches calls the next of some functions, which return failures."""

    is_in_process = False

    def __init__(self, *launches: Callable[[], list[str]]) -> None:
        self.launches, self.counts = list(launches), list[int]()

    def describe_shortage(self, workers: int) -> str | None:
        return f"There is no room for {workers}." if workers > 1 else None

    def launch(self, job: Any, count: int) -> list[str]:
        self.counts.append(count)
        return self.launches.pop(0)()


class RecordingView(PoolView):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def show_message(self, text: str) -> None:
        self.messages.append(text)


def run_job(config: DictConfig) -> None:
    """What a job would do."""


@pytest.fixture
def lease(tmp_path: Path) -> CommandLease:
    return CommandLease(FileLocks(tmp_path))


def finish(source: CountingSource, tasks: int, *failures: str) -> Callable[[], list[str]]:
    def launch() -> list[str]:
        source.done += tasks
        return list(failures)

    return launch


def test_jobs_that_died_are_launched_again(lease: CommandLease) -> None:
    source, view = CountingSource(5), RecordingView()
    launcher = ScriptedLauncher(finish(source, 2, "killed"), finish(source, 2, "killed"), finish(source, 1))
    assert LauncherPool(source, launcher, view, lease).run(run_job, 2) is False  # type: ignore[arg-type]
    assert launcher.counts == [2, 2, 1]
    assert view.messages == ["A job of the launcher has failed: killed"] * 2
    assert not lease.is_alive


def test_launcher_that_does_no_work_is_given_up(lease: CommandLease) -> None:
    source = CountingSource(1)
    launcher = ScriptedLauncher(*[finish(source, 0, "no such queue")] * 3)
    with pytest.raises(RunFailed, match=r"^The launcher's jobs end before they can work: no such queue$"):
        LauncherPool(source, launcher, RecordingView(), lease).run(run_job, 4)  # type: ignore[arg-type]
    assert launcher.counts == [1, 1, 1]


def test_tasks_of_other_hosts_are_waited_for(lease: CommandLease) -> None:
    source, view = CountingSource(2), RecordingView()
    source.running = 1

    def launch() -> list[str]:
        source.done += 1
        return []

    def end_elsewhere() -> None:
        source.running, source.done = 0, 2

    view.show_message = lambda text: (view.messages.append(text), end_elsewhere())  # type: ignore[method-assign,assignment]
    assert LauncherPool(source, ScriptedLauncher(launch), view, lease).run(run_job, 1) is False  # type: ignore[arg-type]
    assert view.messages == ["Waiting for 1 tasks that run elsewhere."]


def test_jobs_know_whether_the_command_accepts_work(lease: CommandLease, tmp_path: Path) -> None:
    source, view = CountingSource(1), RecordingView()
    seen_by_job = CommandLease(FileLocks(tmp_path), lease.key)
    seen: list[tuple[bool, bool]] = []

    def launch() -> list[str]:
        seen.append((seen_by_job.is_accepting, seen_by_job.is_alive))
        source.stop_reason = "The time is over."
        end = time.monotonic() + 60
        while seen_by_job.is_accepting and time.monotonic() < end:
            time.sleep(0.02)
        seen.append((seen_by_job.is_accepting, seen_by_job.is_alive))
        return []

    LauncherPool(source, ScriptedLauncher(launch), view, lease).run(run_job, 1)  # type: ignore[arg-type]
    assert seen == [(True, True), (False, True)]
    assert view.messages == ["The time is over."]


def test_job_in_the_commands_own_process_joins_nothing(tmp_path: Path) -> None:
    origin = {**launch_origin(), "folder": str(tmp_path)}
    assert origin["host"].startswith(platform.node())
    before = Path.cwd()
    join_as_worker(origin)
    assert (Path.cwd(), origin["process"]) == (before, str(os.getpid()))


def test_job_on_a_host_that_can_never_use_the_store_fails(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    (tmp_path / "lightexp-store.json").write_text('{"format": 99}')
    with pytest.raises(BadInput, match=rf"^{platform.node()}: file://{tmp_path} is of format 99; .* 'ray start'\.$"):
        join_as_worker(launch_origin(f"file://{tmp_path}"))
