"""The pool of worker processes: failures, deaths, time limits, Ctrl-C, and the lease of another command."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightexp.core.errors import RunFailed
from lightexp.execution import pool
from lightexp.execution.locks import CommandLease, FileLocks
from lightexp.execution.pool import LocalPool, PoolSettings, PoolView, ThrottledView
from tests.execution.workers.task_worker import FolderSource

WORKERS = Path(__file__).parent / "workers"
PATIENCE_S = 60.0


class RecordingView(PoolView):
    """Keeps what a pool shows."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.activities: set[str] = set()
        self.outcomes: dict[str, dict[str, Any]] = {}

    def show_message(self, text: str) -> None:
        self.messages.append(text)

    def update(self, activities: list[str], seconds: float) -> None:
        self.activities |= set(activities)

    def show_outcome(self, task_id: str, outcome: dict[str, Any]) -> None:
        self.outcomes[task_id] = outcome


@pytest.fixture(autouse=True)
def workers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(WORKERS), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    (tmp_path / "tasks").mkdir()
    return FolderSource(tmp_path / "tasks")


@pytest.fixture
def view() -> RecordingView:
    return RecordingView()


@pytest.fixture
def settings(source: FolderSource, tmp_path: Path) -> PoolSettings:
    return PoolSettings("task_worker", {"folder": str(source.folder)}, 1, tmp_path / "logs")


def call_when(condition: Callable[[], object], action: Callable[[], object]) -> threading.Thread:
    """Call an action in another thread once a condition holds."""

    def wait() -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition() and time.monotonic() < end:
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def interrupt_main() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_pool_runs_all_tasks_and_reports_failures(
    source: FolderSource, settings: PoolSettings, view: RecordingView
) -> None:
    source.add("fine", "fail", "raise", "fine")
    assert LocalPool(source, replace(settings, workers=2), view).run() is False
    ended = source.ended()
    assert (ended["0"], ended["1"], ended["3"]) == ("done", "failed it cannot work", "done")
    assert ended["2"].startswith("failed ZeroDivisionError: unexpected (the traceback is in ")
    assert view.outcomes["0"] == {"result": "fine"}
    assert view.outcomes["1"] == {"failed": "it cannot work"}
    assert "Traceback" in Path(re.search(r" is in (\S+)\)", ended["2"])[1]).read_text()  # type: ignore[index]


def test_full_disk_stops_all_workers_and_keeps_tasks(
    source: FolderSource, settings: PoolSettings, view: RecordingView
) -> None:
    source.add("sleep 0.5", "full", "fine")
    with pytest.raises(RunFailed, match=r"^A disk is full\. Free some space and run the same command\.$"):
        LocalPool(source, replace(settings, workers=2), view).run()
    assert "failed" not in str(source.ended())
    assert (source.folder / "1.todo").exists()


def test_dead_worker_is_replaced_and_its_task_fails(
    source: FolderSource, settings: PoolSettings, view: RecordingView
) -> None:
    source.add("die", "fine")
    LocalPool(source, settings, view).run()
    assert source.ended() == {"0": "failed its process died (SIGKILL)", "1": "done"}
    assert view.outcomes["0"] == {"failed": "its process died (SIGKILL)"}


def test_abandoned_task_is_claimed_again(source: FolderSource, settings: PoolSettings, view: RecordingView) -> None:
    source = FolderSource(source.folder, retries=True)
    source.add("die once", "fine")
    LocalPool(source, settings, view).run()
    assert source.ended() == {"0": "done", "1": "done"}


def test_task_fails_at_its_time_limit(
    source: FolderSource, settings: PoolSettings, view: RecordingView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool's clock stands still but for a step while the task sleeps: a busy machine ends no other task."""
    clock = SimpleNamespace(monotonic=lambda: 2.0 if "task 0: sleeping" in view.activities else 0.0)
    monkeypatch.setattr(pool, "time", clock)
    source.add("sleep 1000", "fine")
    LocalPool(source, replace(settings, time_limit=1.0), view).run()
    assert source.ended() == {"0": "failed it overran its time limit of 1 s", "1": "done"}
    assert "task 0 sleeps" in view.messages
    assert "task 0: sleeping" in view.activities


def test_pool_gives_up_on_workers_that_cannot_start(
    source: FolderSource, settings: PoolSettings, view: RecordingView
) -> None:
    source.add("fine")
    with pytest.raises(RunFailed, match="The workers die before they can work: this worker is broken") as failure:
        LocalPool(source, replace(settings, order={"is_broken": True}), view).run()
    log = Path(re.search(r"is in (\S+)\)", str(failure.value))[1])  # type: ignore[index]
    assert log.read_text().count("this worker is broken") == 3


def test_first_ctrl_c_drains_the_pool(source: FolderSource, settings: PoolSettings, view: RecordingView) -> None:
    source.add("sleep 2", "fine")
    thread = call_when((source.folder / "0.started").exists, interrupt_main)
    assert LocalPool(source, settings, view).run() is True
    thread.join()
    assert source.ended() == {"0": "done"}
    assert "The running tasks are being finished; Ctrl-C again drops them." in view.messages


def test_second_ctrl_c_kills_the_workers(source: FolderSource, settings: PoolSettings, view: RecordingView) -> None:
    source.add("sleep 1000")

    def interrupt_twice() -> None:
        interrupt_main()
        call_when(lambda: any("Ctrl-C again" in text for text in view.messages), interrupt_main).join()

    thread = call_when((source.folder / "0.started").exists, interrupt_twice)
    assert LocalPool(source, settings, view).run() is True
    thread.join()
    assert source.ended() == {}
    assert source.claim() is not None  # its lock has died with its worker


def test_second_ctrl_c_may_come_while_the_first_is_handled(source: FolderSource, settings: PoolSettings) -> None:
    class ImpatientView(RecordingView):
        """Presses Ctrl-C as soon as it reads that another one drops the tasks."""

        def show_message(self, text: str) -> None:
            super().show_message(text)
            if "Ctrl-C again" in text:
                interrupt_main()

    source.add("sleep 1000")
    thread = call_when((source.folder / "0.started").exists, interrupt_main)
    assert LocalPool(source, settings, ImpatientView()).run() is True
    thread.join()
    assert source.claim() is not None


def test_ctrl_c_interrupts_tasks_that_are_not_drained(
    source: FolderSource, settings: PoolSettings, view: RecordingView
) -> None:
    source.add("sleep 1000", "fine")
    order = {**settings.order, "marks_end": True}
    thread = call_when((source.folder / "0.started").exists, interrupt_main)
    assert LocalPool(source, replace(settings, order=order, drains=False), view).run() is True
    thread.join()
    assert source.ended() == {}
    assert len(list(source.folder.glob("*.end"))) == 1  # the worker had the time to end by itself


def test_stop_reason_ends_the_pool(source: FolderSource, settings: PoolSettings, view: RecordingView) -> None:
    source.add("sleep 1", "fine")

    def stop() -> None:
        source.stop_reason = "The time is over."

    thread = call_when((source.folder / "0.started").exists, stop)
    assert LocalPool(source, settings, view).run() is False
    thread.join()
    assert source.ended() == {"0": "done"}
    assert view.messages.count("The time is over.") == 1


@pytest.mark.parametrize("drains", [True, False])
def test_pool_stops_with_the_command_it_works_for(
    source: FolderSource, settings: PoolSettings, view: RecordingView, tmp_path: Path, drains: bool
) -> None:
    source.add("sleep 1000")
    command = CommandLease(FileLocks(tmp_path / "lease"))
    is_over = threading.Event()

    def hold_lease() -> None:
        with command.hold_alive(), command.hold_accepting():
            is_over.wait(PATIENCE_S)

    holder = threading.Thread(target=hold_lease)
    holder.start()
    lease = CommandLease(FileLocks(tmp_path / "lease"), command.key)
    call_when(lambda: lease.is_alive, lambda: None).join()
    thread = call_when((source.folder / "0.started").exists, is_over.set)
    assert LocalPool(source, replace(settings, drains=drains), view, lease).run() is False
    thread.join()
    holder.join()
    assert source.ended() == {}


def test_updates_take_no_more_than_a_twentieth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pool.time, "monotonic", lambda: now)

    class SlowView(RecordingView):
        updates = 0

        def update(self, activities: list[str], seconds: float) -> None:
            nonlocal now
            now += 0.1
            self.updates += 1

    view = SlowView()
    throttled = ThrottledView(view)
    for _ in range(100):
        throttled.update([], now)
        throttled.show_message("line")
        now += 0.5
    assert view.updates == 25  # 2.5 of 52.5 seconds
    assert len(view.messages) == 100
