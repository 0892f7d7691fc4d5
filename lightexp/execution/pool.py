"""A pool of worker processes on this host, each of which pulls tasks from a shared source of work."""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightexp.core.errors import RunFailed
from lightexp.execution.channel import Message
from lightexp.execution.locks import CommandLease
from lightexp.execution.process import WorkerProcess
from lightexp.execution.work import ACTIVITY, ENDED, MESSAGE, STARTED, STOPPED, WorkSource

_TICK_S = 0.5
_UPDATE_SHARE = 0.05
_TERMINATE_GRACE_S = 60.0  # for a worker to record that its task was interrupted
_EXIT_GRACE_S = 60.0  # for a worker that has closed its output, while its libraries shut down
_MAX_EARLY_DEATHS = 3
"""Workers that may die without a task before another one has finished a task."""


class PoolView:
    """Shows a pool at work. This base class shows nothing."""

    def show_message(self, text: str) -> None:
        """Show one line."""

    def update(self, activities: list[str], seconds: float) -> None:
        """Show what each worker is doing, and for how many seconds the pool has run."""

    def show_outcome(self, task_id: str, outcome: dict[str, Any]) -> None:
        """Show the outcome of a task: the source's summary, or `failed` with the reason."""


class ThrottledView(PoolView):
    """Pass updates on to a view as long as these take no more than a twentieth of the pool's time."""

    def __init__(self, view: PoolView) -> None:
        """Throttle the updates of a view; messages and outcomes are always shown."""
        self._view = view
        self._next_update_s = 0.0

    def show_message(self, text: str) -> None:
        """See `PoolView.show_message`."""
        self._view.show_message(text)

    def update(self, activities: list[str], seconds: float) -> None:
        """Show what each worker is doing, or leave it out; see `PoolView.update`."""
        start = time.monotonic()
        if start < self._next_update_s:
            return
        self._view.update(activities, seconds)
        end = time.monotonic()
        self._next_update_s = end + (end - start) / _UPDATE_SHARE

    def show_outcome(self, task_id: str, outcome: dict[str, Any]) -> None:
        """See `PoolView.show_outcome`."""
        self._view.show_outcome(task_id, outcome)


@dataclass(frozen=True)
class PoolSettings:
    """How a pool works.

    Attributes:
        module: The workers' module; its first request is `order`.
        order: What a worker needs to open the source, as JSON types.
        workers: Number of processes.
        log_folder: Folder of the files for their standard error.
        time_limit: Seconds after which a task has failed. Defaults to no limit.
        drains: Whether the first Ctrl-C lets the workers finish their tasks, and the second kills them; else the first
            interrupts the tasks. Defaults to True.
    """

    module: str
    order: dict[str, Any]
    workers: int
    log_folder: Path
    time_limit: float | None = None
    drains: bool = True


@dataclass
class _Worker:
    process: WorkerProcess
    log: Path
    reader: threading.Thread
    task: str | None = None
    task_name: str = ""
    task_started: float = 0.0
    activity: str = "starting"
    has_timed_out: bool = False
    has_exited: bool = False


class LocalPool:
    """Runs the tasks of a source in worker processes.

    A worker that dies is replaced. The pool ends when the workers find no further task, and then waits for tasks that
    run on other hosts, which its workers take over if that host dies.
    """

    def __init__(
        self, source: WorkSource, settings: PoolSettings, view: PoolView, lease: CommandLease | None = None
    ) -> None:
        """Start nothing yet.

        Args:
            source: Hands out the tasks, to the workers as to other hosts' workers.
            settings: How the pool works.
            view: Shows it.
            lease: The lease of the command that this pool works for. The pool then stops when that command does, and
                does not wait for tasks that run elsewhere. Defaults to None: it works for this command.
        """
        self._source, self._settings, self._view, self._lease = source, settings, view, lease
        self._events: queue.Queue[tuple[_Worker, Message | None]] = queue.Queue()
        self._workers: list[_Worker] = []
        self._is_stopping = self._is_interrupted = self._is_waiting = self._has_new_interrupt = False
        self._early_deaths = 0
        self._failure: str | None = None
        self._started_at = self._terminated_at = 0.0

    def run(self) -> bool:
        """Run tasks until none is left.

        Returns:
            Whether the user has interrupted it.

        Raises:
            RunFailed: If the workers die before they can work, or none can go on.
        """
        self._started_at = time.monotonic()
        try:
            while True:
                try:
                    if self._has_new_interrupt:  # here, where another Ctrl-C is caught
                        self._has_new_interrupt = False
                        self._end_tasks()
                    if not self._workers and not self._is_stopping:
                        self._workers = [self._start_worker(index) for index in range(self._settings.workers)]
                    if self._step():
                        if self._failure:
                            raise RunFailed(self._failure)
                        return self._is_interrupted
                except KeyboardInterrupt:
                    if self._is_interrupted:
                        self._kill()
                        self._source.requeue()
                        return True
                    self._is_interrupted = self._has_new_interrupt = True
        finally:
            self._kill()

    def _end_tasks(self) -> None:
        """Let the running tasks end, or interrupt them, as the first Ctrl-C asks for."""
        if self._settings.drains:
            self._stop(self._source.draining_message)
        else:
            self._terminate()

    def _step(self) -> bool:
        """Handle what happens within a moment; return whether the pool has ended."""
        end = time.monotonic() + _TICK_S
        with suppress(queue.Empty):
            while (remaining := end - time.monotonic()) > 0:
                self._handle(*self._events.get(timeout=remaining))
        for worker in list(self._workers):
            if not worker.has_exited and not worker.reader.is_alive() and self._events.empty():
                self._handle_exit(worker)  # an interrupt came between the event of its end and the handling
        self._enforce_time_limit()
        status = self._source.status()
        if not self._is_stopping and status.stop_reason:
            self._stop(status.stop_reason)
        if self._lease is not None and self._follow_lease(self._lease):
            return True
        self._view.update([worker.activity for worker in self._workers], time.monotonic() - self._started_at)
        if self._terminated_at and time.monotonic() - self._terminated_at > _TERMINATE_GRACE_S:
            return True
        if not all(worker.has_exited for worker in self._workers):
            return False
        if self._is_stopping or not status.running or self._lease is not None:
            return True
        if not self._is_waiting:
            self._is_waiting = True
            self._view.show_message(f"Waiting for {status.running} {self._source.noun} that run elsewhere.")
        if self._source.has_orphans():
            self._workers = []
        return False

    def _follow_lease(self, lease: CommandLease) -> bool:
        """Stop with the command that the pool works for; return whether that is to be done at once."""
        if not self._is_stopping and not lease.is_accepting:
            self._stop()
        if lease.is_alive:
            return False
        if self._settings.drains:
            return True
        if not self._terminated_at:
            self._terminate()
        return False

    def _enforce_time_limit(self) -> None:
        limit = self._settings.time_limit
        if limit is None:
            return
        for worker in self._workers:
            if worker.task and not worker.has_timed_out and time.monotonic() - worker.task_started > limit:
                reason = f"it overran its time limit of {limit:g} s"
                worker.has_timed_out = True
                self._source.fail(worker.task, reason)
                self._view.show_outcome(worker.task, {"failed": reason})
                worker.process.kill()

    def _start_worker(self, index: int) -> _Worker:
        log = self._settings.log_folder / f"{os.getpid()}-{index}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            process = WorkerProcess(self._settings.module, stderr=errors)
        process.send(self._settings.order)
        reader = threading.Thread(target=lambda: self._read(worker), daemon=True)
        worker = _Worker(process, log, reader)
        reader.start()
        return worker

    def _read(self, worker: _Worker) -> None:
        for message in worker.process.messages():
            self._events.put((worker, message))
        self._events.put((worker, None))

    def _handle(self, worker: _Worker, message: Message | None) -> None:
        if message is None:
            if not worker.has_exited:
                self._handle_exit(worker)
            return
        event = message.content
        if event["event"] == STARTED:
            worker.task, worker.task_name, worker.task_started = event["task"], event["name"], time.monotonic()
            worker.activity = worker.task_name
        elif event["event"] == ENDED:
            worker.task, worker.activity, self._early_deaths = None, "waiting for a task", 0
            self._view.show_outcome(event["task"], event["outcome"])
        elif event["event"] == ACTIVITY and worker.task is not None:
            worker.activity = f"{worker.task_name}: {event['text']}"
        elif event["event"] == STOPPED:
            worker.task, worker.activity, self._failure = None, "stopped", event["reason"]
            self._stop(event["reason"] if any(other.task for other in self._workers) else "")
        elif event["event"] == MESSAGE:
            self._view.show_message(event["text"])

    def _handle_exit(self, worker: _Worker) -> None:
        worker.has_exited = True
        cause = worker.process.describe_exit(_EXIT_GRACE_S)
        if self._terminated_at:
            return
        if worker.task is not None and not worker.has_timed_out:
            reason = self._source.abandon(worker.task, cause)
            if reason is not None:
                self._view.show_outcome(worker.task, {"failed": reason})
        is_death = worker.task is not None or worker.process.exit_code != 0
        if worker not in self._workers or self._is_stopping or not is_death:
            return
        if worker.task is None:
            self._early_deaths += 1
        if self._early_deaths >= _MAX_EARLY_DEATHS:
            lines = worker.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["killed"]
            raise RunFailed(f"The workers die before they can work: {lines[-1]} (all of it is in {worker.log})")
        index = self._workers.index(worker)
        self._workers[index] = self._start_worker(index)

    def _stop(self, reason: str = "") -> None:
        """Let the workers finish their tasks and claim no others."""
        self._is_stopping = True
        if reason:
            self._view.show_message(reason)
        for worker in self._workers:
            worker.process.request_stop()

    def _terminate(self) -> None:
        """Interrupt the workers in the middle of their tasks, so that these are recorded as interrupted."""
        self._is_stopping, self._terminated_at = True, time.monotonic()
        for worker in self._workers:
            worker.process.terminate()

    def _kill(self) -> None:
        for worker in self._workers:
            worker.process.close(0)
