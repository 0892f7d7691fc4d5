"""An ablation's tasks: what is claimed when, failures of needs, other hosts' locks, and real workers that die."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from lightexp.ablation.run import WORKER
from lightexp.ablation.runs import RunIndex
from lightexp.ablation.task_source import LOCKS, AblationOrder, AblationSource
from lightexp.ablation.tasks import AblationTask
from lightexp.core.errors import RunFailed
from lightexp.core.json_text import encode_json
from lightexp.core.records import RUNS
from lightexp.core.store import Store
from lightexp.execution.locks import FileLocks
from lightexp.execution.pool import LocalPool, PoolSettings, PoolView
from lightexp.execution.process import WorkerProcess
from tests.synthetic import synthesize_record

PATIENCE_S = 120.0


def make_task(name: str, needs: str = "", kind: str = "run") -> AblationTask:
    """A task that a real worker refuses at once."""
    return AblationTask(kind, name, name, [f"nothing.{name}=1"], needs.split(), row=name)  # type: ignore[arg-type]


def make_order(outputs: Path, tasks: list[AblationTask]) -> AblationOrder:
    return AblationOrder([asdict(task) for task in tasks], str(outputs), str(outputs / LOCKS / "call-1"))


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


class FailureView(PoolView):
    """Keeps the failures in the order in which a pool shows them."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []

    def show_outcome(self, task_id: str, outcome: dict[str, Any]) -> None:
        self.failures.append((task_id, outcome["failed"]))


@pytest.fixture
def run_pool(warm_workers: None, tmp_path: Path) -> Callable[..., list[tuple[str, str]]]:
    """Runs tasks in real workers and returns the failures."""

    def run(tasks: list[AblationTask], workers: int = 1) -> list[tuple[str, str]]:
        order, view = make_order(tmp_path, tasks), FailureView()
        settings = PoolSettings(WORKER, asdict(order), workers, tmp_path / "logs", drains=False)
        assert LocalPool(AblationSource(order), settings, view).run() is False
        return view.failures

    return run


def test_failed_tasks_do_not_stop_the_others(run_pool: Callable[..., list[tuple[str, str]]]) -> None:
    failures = run_pool([make_task("a"), make_task("b"), make_task("c")], workers=2)
    assert sorted(name for name, _ in failures) == ["a", "b", "c"]
    assert all("nothing" in reason and "is not a setting" in reason for _, reason in failures)


def test_task_fails_with_the_stage_it_needs(run_pool: Callable[..., list[tuple[str, str]]]) -> None:
    failures = run_pool([make_task("row", "k2"), make_task("k2", "k1", "stage"), make_task("k1", "", "stage")])
    reasons = dict(failures)
    assert [name for name, _ in failures] == ["k1", "k2", "row"]
    assert "nothing.k1" in reasons["k1"]
    assert reasons["k1"] == reasons["k2"] == reasons["row"]


def test_task_waits_for_its_needs(tmp_path: Path) -> None:
    order = make_order(tmp_path, [make_task("row", "k1"), make_task("other")])
    source = AblationSource(order, lambda task: {})
    claimed = source.claim()
    assert claimed is not None
    assert claimed.id == "other"
    assert source.claim() is None
    assert source.status().may_grow

    def make(folder: Path) -> dict[str, Any]:
        (folder / "file").touch()
        return {}

    Store(tmp_path / "store").ensure("k1", "a stage", make)
    claimed = source.claim()
    assert claimed is not None
    assert claimed.id == "row"
    assert not source.status().may_grow


def test_task_of_another_host_is_waited_for_and_not_repeated(tmp_path: Path) -> None:
    other_host = FileLocks(tmp_path / LOCKS)
    assert other_host.acquire("k1")
    source = AblationSource(make_order(tmp_path, [make_task("k1", "", "stage"), make_task("mine")]), lambda task: {})
    claimed = source.claim()
    assert claimed is not None
    assert claimed.id == "mine"
    assert source.claim() is None
    assert source.status().may_grow  # the other host may die
    Store(tmp_path / "store").ensure("k1", "a stage", lambda folder: {"made": (folder / "file").write_text("1")})
    other_host.release("k1")
    assert source.claim() is None
    assert not source.status().may_grow
    assert not source.read_failures()


def test_failure_is_seen_by_the_commands_other_workers_only(tmp_path: Path) -> None:
    order = make_order(tmp_path, [make_task("a"), make_task("b")])
    first, second = AblationSource(order, lambda task: {}), AblationSource(order, lambda task: {})
    other_call = AblationSource(
        AblationOrder(order.tasks, order.outputs, str(tmp_path / LOCKS / "call-2")), lambda task: {}
    )
    claimed = first.claim()
    assert claimed is not None
    first.fail(claimed.id, "it broke")
    claimed = second.claim()
    assert claimed is not None
    assert claimed.id == "b"
    assert second.status().unclaimed == 1
    assert second.read_failures() == {"a": "it broke"}
    claimed = other_call.claim()
    assert claimed is not None
    assert claimed.id == "a"


def test_worker_reads_runs_that_ended_since_the_command_did(tmp_path: Path) -> None:
    record = synthesize_record("a", tags={"ablation": "x"})
    identity = encode_json([0, [stage.key for stage in record.stages], record.tags.get("measured", ""), []])
    task = replace(make_task("a"), identity=identity)

    def write(name: str) -> None:
        record.id = name
        (tmp_path / RUNS / name).mkdir(parents=True)
        record.write(tmp_path / RUNS / name)

    write("before")
    command = RunIndex(tmp_path)
    command.refresh()
    order = replace(make_order(tmp_path, [task]), known_runs=sorted(command.read_folders))
    worker = AblationSource(order, lambda task: {})
    worker.refresh()
    assert worker.find_metrics(task) is None
    write("since")
    assert worker.claim() is None
    assert worker.find_metrics(task) == record.metrics


def test_task_that_was_given_back_is_claimed_by_another(tmp_path: Path) -> None:
    order = make_order(tmp_path, [make_task("a")])
    first, second = AblationSource(order, lambda task: {}), AblationSource(order, lambda task: {})
    assert first.claim() is not None
    assert second.claim() is None
    first.give_back("a")
    assert second.claim() is not None
    assert not second.read_failures()


def test_claimed_task_with_a_failed_need_raises_the_reason(tmp_path: Path) -> None:
    source = AblationSource(make_order(tmp_path, [make_task("row", "k1")]), lambda task: {})
    source.fail("k1", "it broke")
    claimed = source.claim()
    assert claimed is not None
    with pytest.raises(RunFailed, match=r"^it broke$"):
        claimed.run()


def test_killed_worker_is_the_reason_of_the_failure(tmp_path: Path) -> None:
    source = AblationSource(make_order(tmp_path, [make_task("a")]))
    assert source.abandon("a", "SIGKILL") == "its process died (SIGKILL)"
    assert source.read_failures() == {"a": "its process died (SIGKILL)"}


@pytest.mark.usefixtures("warm_workers")
def test_worker_without_tasks_exits(tmp_path: Path) -> None:
    worker = WorkerProcess(WORKER)
    worker.send(asdict(make_order(tmp_path, [])))
    assert worker.wait(PATIENCE_S) == 0
    worker = WorkerProcess(WORKER)
    worker.disconnect()
    assert worker.wait(PATIENCE_S) == 0


@pytest.mark.usefixtures("warm_workers")
def test_worker_records_an_interruption_when_its_parent_dies(tmp_path: Path) -> None:
    overrides = [f"paths.outputs={tmp_path}", "pipeline=control", "pipeline.stages.train.epochs=10000", "tracking=none"]
    overrides += ["runtime.threads=1", "model.width=0.25"]
    worker = WorkerProcess(WORKER)
    worker.send(asdict(make_order(tmp_path, [AblationTask("run", "long", "long", overrides)])))
    reader = threading.Thread(target=list, args=[worker.messages()])
    reader.start()
    wait_until(lambda: list(tmp_path.glob("store/drafts/*")))
    worker.disconnect()  # as when the parent dies
    assert worker.wait(PATIENCE_S) == 0
    reader.join()
    worker.close()
    [record] = tmp_path.glob("runs/*/record.json")
    assert '"status": "interrupted"' in record.read_text()


@pytest.mark.usefixtures("warm_workers")
def test_worker_is_replaced_after_a_kill(tmp_path: Path) -> None:
    overrides = [f"paths.outputs={tmp_path}", "pipeline=control", "pipeline.stages.train.epochs=10000", "tracking=none"]
    overrides += ["runtime.threads=1", "model.width=0.25"]
    order = make_order(tmp_path, [AblationTask("run", "long", "long", overrides), make_task("next")])
    settings = PoolSettings(WORKER, asdict(order), 1, tmp_path / "logs", drains=False)
    view = FailureView()

    def kill_worker() -> None:
        wait_until(lambda: list(tmp_path.glob("store/drafts/*")))
        for entry in Path("/proc").glob("[0-9]*"):
            if is_child(entry) and WORKER.encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)

    killer = threading.Thread(target=kill_worker)
    killer.start()
    LocalPool(AblationSource(order), settings, view).run()
    killer.join()
    assert view.failures[0] == ("long", "its process died (SIGKILL)")
    assert view.failures[1][0] == "next"


def is_child(entry: Path) -> bool:
    """Whether a folder of /proc is that of a process that this one has started."""
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
    except (OSError, IndexError):
        return False
