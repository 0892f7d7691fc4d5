"""A crew's processes: failures, other hosts' locks, workers that die."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from lightexp.ablation.task_pool import WORKER, Task, TaskPool, _answer
from lightexp.execution.json_lines import WorkerProcess, close


def task(name: str, needs: str = "", makes: str | None = None, done: Any = lambda: False) -> Task:
    """A task that a real worker refuses at once."""
    request = {"call": "run", "overrides": [f"nothing.{name}=1"], "tags": {}}
    return Task(name, request, name, frozenset(needs.split()), makes, done)


@pytest.fixture
def work(tmp_path: Path):
    def run(tasks: list[Task], workers: int = 1, there: set[str] = frozenset()) -> list[tuple[str, str]]:
        ended: list[tuple[str, str]] = []
        crew = TaskPool(tasks, tmp_path, there.__contains__, lambda t, a: ended.append((t.name, a["failed"])), print)
        crew.work(workers)
        return ended

    return run


def test_failures_are_told_and_the_others_go_on(work) -> None:
    ended = work([task("a"), task("b"), task("c")], workers=2)
    assert sorted(name for name, _ in ended) == ["a", "b", "c"]
    assert all("nothing" in reason and "is not a setting" in reason for _, reason in ended)


def test_what_needs_a_stage_that_failed_is_not_tried(work) -> None:
    ended = work([task("row", needs="k2"), task("later", needs="k1", makes="k2"), task("stage", makes="k1")])
    reasons = dict(ended)
    assert [name for name, _ in ended] == ["stage", "later", "row"]
    assert "nothing.stage" in reasons["stage"] == reasons["later"] == reasons["row"]


def test_what_others_are_at_is_waited_for_and_not_done_again(work, tmp_path) -> None:
    finished = threading.Event()
    held = FileLock(tmp_path / "shared.lock", thread_local=False)
    held.acquire()

    def other_host() -> None:
        time.sleep(1.0)
        finished.set()
        held.release()

    thread = threading.Thread(target=other_host)
    thread.start()
    ended = work([task("shared", done=finished.is_set), task("mine")])
    thread.join()
    assert [name for name, _ in ended] == ["mine"]
    assert finished.is_set()


def test_a_worker_that_dies_is_a_reason_and_one_without_tasks_goes_home() -> None:
    child = WorkerProcess(WORKER)
    threading.Timer(1.0, lambda: child.process.send_signal(signal.SIGSTOP)).start()
    time.sleep(1.5)  # it can no longer answer
    threading.Timer(0.5, child.process.kill).start()
    assert _answer(child, task("a").request, print) == {"failed": "its process died of signal 9"}
    close(child.process)
    child = WorkerProcess(WORKER)
    close(child.process)
    assert child.process.returncode == 0


def test_a_worker_stops_when_its_parent_has_died(tmp_path) -> None:
    child = WorkerProcess(WORKER)
    assert child.process.stdin is not None
    overrides = [f"paths.outputs={tmp_path}", "pipeline=control", "pipeline.stages.train.epochs=10000", "tracking=none"]
    overrides += ["runtime.threads=1", "model.width=0.25"]
    listener = threading.Thread(target=child.call, args=({"call": "run", "overrides": overrides, "tags": {}}, print))
    listener.start()
    until = time.monotonic() + 60
    while not list(tmp_path.glob("store/drafts/*")) and time.monotonic() < until:
        time.sleep(0.1)
    child.process.stdin.close()  # as when the parent dies
    assert child.process.wait(30) == 0
    listener.join()
    close(child.process)
    [record] = tmp_path.glob("runs/*/record.json")
    assert '"status": "interrupted"' in record.read_text()
