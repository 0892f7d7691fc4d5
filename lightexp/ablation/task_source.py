"""The tasks of an ablation as a source of work for processes and hosts that share the outputs folder."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lightexp.ablation.remote_tasks import RemoteTasks
from lightexp.ablation.runs import RunIndex
from lightexp.ablation.tasks import AblationTask
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.json_text import encode_json
from lightexp.core.record import Record, StageRecord, read_record
from lightexp.core.records import RUNS
from lightexp.core.regular_files import read_text
from lightexp.core.store import Store
from lightexp.execution.locks import CommandLease, FileLocks
from lightexp.execution.work import ClaimedTask, WorkSource, WorkStatus

LOCKS = "ablations/locks"
"""Folder of the locks, in the outputs folder."""
TaskRunner = Callable[[AblationTask], dict[str, Any]]


@dataclass(frozen=True)
class AblationOrder:
    """What another process needs to work on an ablation.

    Attributes:
        tasks: The tasks, as JSON types, in the order in which they are to be claimed.
        outputs: The folder of all outputs.
        call_folder: The folder of the command's lease and of its failures.
        remote_store: The address of the remote store, if that is all that the hosts share. Defaults to None: they share
            the folders.
        known_runs: Names of the folders of runs that had ended before, none of which has done a task: reading ten
            thousand of them would delay each worker.
    """

    tasks: list[dict[str, Any]]
    outputs: str
    call_folder: str
    remote_store: str | None = None
    known_runs: list[str] = field(default_factory=list)


class AblationSource(WorkSource):
    """Hands out the tasks whose needs are in the store, which nobody works on and which have not been done.

    Locks in the outputs folder keep other commands away from a task. Failures are files in the command's own folder, so
    that none of its workers tries a failed task again, while another command does. Hosts that share no folder have
    `RemoteTasks` instead of both, and the command fetches the records of their runs.
    """

    def __init__(self, order: AblationOrder, run_task: TaskRunner | None = None, index: RunIndex | None = None) -> None:
        """Claim nothing yet.

        Args:
            order: The tasks.
            run_task: Runs a task and returns its metrics. Defaults to None, for a process that claims none.
            index: The records of finished runs, in the command itself. Defaults to a new one, in a worker.
        """
        self.tasks = [AblationTask(**task) for task in order.tasks]
        self._waiting = list(self.tasks)
        self._outputs, self._call_folder = Path(order.outputs), Path(order.call_folder)
        self._run_task = run_task
        self._is_command = index is not None
        self._index = RunIndex(self._outputs, order.known_runs) if index is None else index
        self._index_lock = threading.Lock()
        self._store = Store(self._outputs / "store")
        self._remote: RemoteTasks | None = None
        self._locks: FileLocks | RemoteTasks = FileLocks(self._outputs / LOCKS)
        if order.remote_store is not None:
            self._locks = self._remote = RemoteTasks(order.remote_store, self._call_folder.name)
        self._fetched: set[str] = set()

    def make_lease(self, key: int | None = None) -> CommandLease:
        """Return a lease in the command's folder."""
        return CommandLease(FileLocks(self._call_folder), key)

    def claim(self) -> ClaimedTask | None:
        """See `WorkSource.claim`. A task whose needs have failed fails in its turn."""
        failures = self.read_failures()
        for task in list(self._waiting):
            if task.id in failures:
                self._waiting.remove(task)
                continue
            reason = next((failures[key] for key in task.needs if key in failures), None)
            if reason is None and not all(map(self._has_stage, task.needs)):
                continue
            if not self._locks.acquire(task.id):
                continue
            self._waiting.remove(task)
            self.refresh()
            if self._is_done(task) or task.id in self.read_failures():
                self._locks.release(task.id)
                continue
            assert self._run_task is not None
            run = partial(self._run_task, task) if reason is None else partial(_raise_failure, reason)
            return ClaimedTask(task.id, task.name, run)
        return None

    def finish(self, task: ClaimedTask, result: dict[str, Any]) -> dict[str, Any]:
        """See `WorkSource.finish`; the summary is the task's `metrics`."""
        if self._remote is not None:
            self._remote.report_done(task.id, self._find_record(task.id))
        self._locks.release(task.id)
        return {"metrics": result}

    def fail(self, task_id: str, reason: str) -> None:
        """See `WorkSource.fail`."""
        if self._remote is not None:
            self._remote.report_failure(task_id, reason)
        else:
            self._call_folder.mkdir(parents=True, exist_ok=True)
            draft = self._call_folder / f"{task_id}.{os.getpid()}.draft"
            draft.write_text(encode_json({"task": task_id, "reason": reason}), encoding="utf-8")
            draft.replace(self._call_folder / f"{task_id}.json")
        self._locks.release(task_id)

    def give_back(self, task_id: str) -> None:
        """See `WorkSource.give_back`."""
        self._locks.release(task_id)

    def status(self) -> WorkStatus:
        """See `WorkSource.status`. Workers wait for other hosts' tasks, so that none counts as running."""
        self.refresh()
        failures = self.read_failures()
        unfinished = sum(task.id not in failures and not self._is_done(task) for task in self.tasks)
        ended = len(self.tasks) - unfinished
        return WorkStatus(unfinished, 0, ended, may_grow=bool(self._waiting), progress=ended)

    def read_failures(self) -> dict[str, str]:
        """Return why tasks of this command have failed, by task id."""
        if self._remote is not None:
            return dict(self._remote.failures)
        entries = (json.loads(read_text(path)) for path in self._call_folder.glob("*.json"))
        return {entry["task"]: entry["reason"] for entry in entries}

    def refresh(self, at_once: bool = False) -> None:
        """Read the records of runs that have ended since the last time, on whatever host.

        Args:
            at_once: Whether to ask a remote store even if that was done a moment ago. Defaults to False.
        """
        with self._index_lock:
            if self._remote is not None:
                self._remote.refresh(at_once)
            if self._remote is not None and self._is_command:
                self._fetch_records(self._remote)
            self._index.refresh()

    def clear(self) -> None:
        """Remove what the command has left on other hosts' behalf, at its end."""
        if self._remote is not None:
            self._remote.clear()

    def _fetch_records(self, remote: RemoteTasks) -> None:
        """Write the records of other hosts' runs into this host's outputs; their other files stay where they are."""
        for task_id in remote.done - self._fetched:
            if (record := remote.read_record(task_id)) is not None:
                record.files = {}
                folder = self._outputs / RUNS / record.id
                folder.mkdir(parents=True, exist_ok=True)
                record.write(folder)
            self._fetched.add(task_id)

    def find_metrics(self, task: AblationTask) -> dict[str, float] | None:
        """Return the metrics of a run that had ended, on whatever host, at the last refresh; None if it had not."""
        with self._index_lock:
            record = self._index.find(task.identity)
        return None if record is None else record.metrics

    def find_stages(self, task: AblationTask) -> list[StageRecord]:
        """Return the stages of a run that had ended, on whatever host; none if it had not."""
        self.refresh()
        with self._index_lock:
            record = self._index.find(task.identity)
        return [] if record is None else record.stages

    def _find_record(self, task_id: str) -> Record | None:
        """Return the record of a run that this process has made; None if the task was no run."""
        task = next(task for task in self.tasks if task.id == task_id)
        self.refresh()
        return self._index.find(task.identity) if task.kind == "run" else None

    def _has_stage(self, key: str) -> bool:
        return self._store.has(key) if self._remote is None else key in self._remote.done

    def _is_done(self, task: AblationTask) -> bool:
        if self._remote is not None:  # a record of an earlier command on this host has not been reported
            return task.id in self._remote.done
        if task.kind == "stage":
            return self._store.has(task.id)
        if task.kind == "run":
            return self.find_metrics(task) is not None
        try:
            record = read_record(self._outputs / RUNS / task.record_id)
        except BadInput:  # the worker says so in its turn
            return False
        return any(name.startswith("latency/") for name in record.metrics)


def _raise_failure(reason: str) -> None:
    raise RunFailed(reason)
