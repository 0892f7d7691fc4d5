"""Running what an ablation has still to run."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightexp.ablation.command_session import CommandSession
from lightexp.ablation.runs import AblationRun, Backlog, RunIndex, needs_latency
from lightexp.ablation.task_pool import Say, Task, TaskPool
from lightexp.core.formatting import format_duration
from lightexp.core.store import Store

LOCKS = "ablations/locks"
"""The folder in the outputs folder by which processes and hosts keep out of each other's way."""


@dataclass
class AblationOutcome:
    """What became of an ablation's jobs.

    Attributes:
        ran: How many ran now.
        failed: Why a row with a seed failed, by both.
    """

    ran: int = 0
    failed: dict[tuple[str, int], str] = field(default_factory=dict)


def run_backlog(
    outlook: Backlog, finished: RunIndex, outputs: Path, workers: int, say: Say, call: CommandSession | None = None
) -> AblationOutcome:
    """Runs the missing jobs, shared stages first, in processes of this host.

    Args:
        outlook: What is missing.
        finished: The records.
        outputs: The folder of all outputs.
        workers: How many processes; the cores are shared out among them.
        say: Takes lines for the user.
        call: The command that this is part of the work of. Defaults to None: all of it.

    Raises:
        KeyboardInterrupt: If it was interrupted. What was finished is kept, and the same call goes on from there.
    """
    outcome = AblationOutcome()
    store = Store(outputs / "store")
    threads = max(1, len(os.sched_getaffinity(0)) // (call.workers if call else workers))
    jobs = {_lock(job): job for job in outlook.missing}
    started = time.monotonic()

    def ended(task: Task, answer: dict[str, Any]) -> None:
        if job := jobs.get(task.lock):
            outcome.ran += 1
            if "failed" in answer:
                outcome.failed[job.place] = answer["failed"]
                if call:
                    call.failed(job, answer["failed"])
        if "failed" in answer:
            say(f"{task.name} failed: {answer['failed']}")
        elif job:
            made = sum(map(store.has, outlook.seconds))
            left = (time.monotonic() - started) / max(made, 1) * (len(outlook.seconds) - made)
            time_left = f"; about {format_duration(left)} left" if outcome.ran < len(jobs) else ""
            say(f"[{outcome.ran}/{len(jobs)}] {task.name}: {format_metrics(answer['metrics'])}{time_left}")
        elif task.makes:
            say(f"  {task.name}: made in {format_duration(answer['metrics']['seconds'])}")

    rows = [_task(job, outlook, finished, threads, call) for job in outlook.missing]
    crew = TaskPool([*_shared(outlook, store, threads), *rows], outputs / LOCKS, store.has, ended, say)
    with call.watched(crew.stop) if call else nullcontext():
        crew.work(workers)
    finished.refresh()
    return outcome


def measure_latencies(outlook: Backlog, finished: RunIndex, outputs: Path, say: Say) -> None:
    """Measures latency where it has not been, one run after another, while nothing else computes."""

    def ended(task: Task, answer: dict[str, Any]) -> None:
        if "failed" in answer:
            say(f"{task.name} failed: {answer['failed']}")

    if timings := [task for job in outlook.timings if (task := _timing(job, finished))]:
        say(f"Measuring the latency of {len(timings)} runs, one after another, while nothing else computes.")
        TaskPool(timings, outputs / LOCKS, Store(outputs / "store").has, ended, say).work(1)


def _shared(outlook: Backlog, store: Store, threads: int) -> list[Task]:
    """A task for each missing stage that several jobs stand on: first those that come first and that most need."""
    found: dict[str, tuple[int, Task]] = {}
    for job in outlook.missing:
        before: set[str] = set()
        for depth, node in enumerate(job.plan.nodes):
            if node.key in outlook.shared and node.key not in found:
                key, name = node.key, f"{node.name}, seed {job.seed}, for {outlook.shared[node.key]} rows"
                request = {"call": "stage", "overrides": _overrides(job, threads), "key": key}
                task = Task(name, request, key, frozenset(before), key, lambda key=key: store.has(key))  # type: ignore[misc]
                found[key] = depth, task
            if node.key in outlook.shared:
                before.add(node.key)
    return [task for _, task in sorted(found.values(), key=lambda one: (one[0], -outlook.shared[one[1].lock]))]


def _task(job: AblationRun, outlook: Backlog, finished: RunIndex, threads: int, call: CommandSession | None) -> Task:
    def done() -> bool:
        finished.refresh()
        return finished.of(job) is not None or (call is not None and job.place in call.failures())

    request = {"call": "run", "overrides": _overrides(job, threads), "tags": job.tags}
    needs = frozenset(node.key for node in job.plan.nodes if node.key in outlook.shared)
    return Task(f"{job.row.name}, seed {job.seed}", request, _lock(job), needs, None, done)


def _timing(job: AblationRun, finished: RunIndex) -> Task | None:
    record = finished.of(job)
    if record is None or not needs_latency(job, record):
        return None
    # The records of this process are as they were; one that another host has timed is timed twice, to no harm.
    request = {"call": "time", "overrides": job.overrides, "id": record.id}
    name = f"latency of {job.row.name}, seed {job.seed}"
    return Task(name, request, f"time-{record.id}", frozenset(), None, lambda: False)


def _overrides(job: AblationRun, threads: int) -> list[str]:
    """A job's overrides, with its share of the cores unless they say how many threads it takes."""
    set_already = any(word.startswith("runtime.threads=") for word in job.overrides)
    return job.overrides if set_already else [*job.overrides, f"runtime.threads={threads}"]


def _lock(job: AblationRun) -> str:
    return hashlib.sha256(repr((job.tags, job.seed, [node.key for node in job.plan.nodes])).encode()).hexdigest()


def format_metrics(found: dict[str, float]) -> str:
    """A run's figures in a few words."""
    accuracy = found.get("accuracy/test", found.get("accuracy/val"))
    words = [] if accuracy is None else [f"accuracy {accuracy:.2%}"]
    if "size/file_bytes" in found:
        words.append(f"{found['size/file_bytes']:,.0f} bytes")
    return ", ".join(words) or "done"
