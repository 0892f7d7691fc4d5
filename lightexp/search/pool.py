"""The processes that work on a study, each on its own trial, and the one that watches over them."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lightexp.core.errors import RunFailed
from lightexp.execution.json_lines import WorkerProcess, write_line
from lightexp.search.study import SearchStudy
from lightexp.search.study_status import StudyStatus, compute_status
from lightexp.search.study_tracker import StudyTracker
from lightexp.search.worker import STOP

FINISHING = "The running trials are being finished; Ctrl-C again drops them."
LATE = "The time is over; the running trials are being finished."
_TICK = 0.5  # seconds
_STILLBORN = 3
"""Workers that may die in a row without having taken a trial."""


class View(Protocol):
    """Shows a study at work."""

    def say(self, words: str) -> None:
        """Shows one line."""

    def show(self, now: StudyStatus, workers: list[str], seconds: float, left: float | None) -> None:
        """Shows how it stands, what each worker does, how long it has run, and how long it may take."""


@dataclass
class _Worker:
    process: subprocess.Popen[str]
    trial: int | None = None
    since: float = 0.0
    doing: str = "starting"
    stopped: bool = False
    taken: int = 0
    log: Path = field(default_factory=Path)

    def stop(self) -> None:
        self.stopped = True
        with suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.write(STOP)
            self.process.stdin.flush()


def order(study: SearchStudy, layers: Mapping[str, list[str]], command: list[str]) -> dict[str, Any]:
    """What another process needs to work on a study, as JSON has it; see `Pool`."""
    return {"job": study.spec.arguments, "layers": dict(layers), "folder": str(study.folder), "command": command}


class Pool:
    """Runs a study's trials in processes of their own."""

    def __init__(
        self,
        study: SearchStudy,
        layers: Mapping[str, list[str]],
        command: list[str],
        view: View,
        mirror: StudyTracker | None,
        workers: int,
        call: int | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            study: The study.
            layers: As `Job.space` takes them.
            command: The command, for the trials' records.
            view: Where to show how it goes.
            mirror: Shows it in MLflow, if that is this pool's to do.
            workers: How many processes.
            call: The claim of the command that this pool works for. It stops when that is given up, at once when the
                one below it is, too, and does not wait for trials that run elsewhere. Defaults to None: it works
                for itself.
        """
        self._study, self._view, self._mirror, self._size, self._call = study, view, mirror, workers, call
        self._order = order(study, layers, command)
        self._events: queue.Queue[tuple[_Worker, dict[str, Any]]] = queue.Queue()
        self._workers: list[_Worker] = []
        self._stopping = self._interrupted = self._waiting = False
        self._stillborn = 0
        self._start = time.monotonic()

    def run(self) -> bool:
        """Runs trials until nothing is left to do.

        Returns:
            Whether it was interrupted.

        Raises:
            RunFailed: If no worker can be started.
        """
        before = len(self._study.trials)
        self._start = time.monotonic()
        try:
            while True:
                try:
                    if not self._workers and not self._stopping:
                        self._workers = [self._started(n) for n in range(self._size)]
                    if self._turn(before):
                        return self._interrupted
                except KeyboardInterrupt:
                    if self._interrupted:
                        self._end()
                        self._study.requeue_interrupted()
                        return True
                    self._interrupted = True
                    self._stop(FINISHING)
        finally:
            self._end()

    def _end(self) -> None:
        for worker in self._workers:
            worker.process.kill()
            worker.process.wait()

    def _turn(self, before: int) -> bool:
        """Takes in what has happened for a moment; returns whether all is over."""
        with suppress(queue.Empty):
            until = time.monotonic() + _TICK
            while (left := until - time.monotonic()) > 0:
                self._hear(*self._events.get(timeout=left))
        job, seconds = self._study.spec, time.monotonic() - self._start
        for index, worker in enumerate(self._workers):
            limit = job.search.trial_timeout
            if limit and worker.trial is not None and time.monotonic() - worker.since > limit:
                self._study.fail(worker.trial, f"it overran its time limit of {limit:g} s")
                worker.process.kill()
            code = worker.process.poll()
            if code is not None and (code != 0 or worker.trial is not None) and not worker.stopped:
                self._workers[index] = self._again(index, worker)
        trials = self._study.trials
        if not self._stopping:
            if job.search.timeout and seconds > job.search.timeout:
                self._stop(LATE)
            elif self._study.too_many_failures(trials):
                self._stop(f"More than {job.search.max_failures} trials in a row have failed (search.max_failures).")
            elif self._call is not None and self._study.locks.is_free(self._call):
                self._stop()
        if self._call is not None and self._study.locks.is_free(self._call - 1):
            return True
        now = compute_status(trials, job.objectives)
        if self._mirror:
            self._mirror.update(now)
        ended = len(now.ended)
        here = max(1, ended - before)
        remaining = max(0, job.search.trials - ended)
        self._view.show(now, [w.doing for w in self._workers], seconds, seconds / here * remaining if ended else None)
        if not all(worker.process.poll() is not None for worker in self._workers):
            return False
        if self._stopping or not now.running or self._call is not None:
            return True
        # Another host's, which belong to the front too; a worker takes them up if that host dies.
        if not self._waiting:
            self._waiting = True
            self._view.say(f"Waiting for {len(now.running)} trials that run elsewhere.")
        if any(self._study.locks.is_free(trial.number) for trial in now.running):
            self._workers = []
        return False

    def _started(self, index: int) -> _Worker:
        log = self._study.folder / "workers" / f"{os.getpid()}-{index}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            process = WorkerProcess("lightexp.search.worker", str(os.getpid()), errors=errors, session=True).process
        assert process.stdin is not None
        write_line(process.stdin, self._order)
        worker = _Worker(process, log=log)
        threading.Thread(target=self._read, args=[worker], daemon=True).start()
        return worker

    def _read(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            with suppress(ValueError):
                self._events.put((worker, json.loads(line)))

    def _hear(self, worker: _Worker, event: dict[str, Any]) -> None:
        if "trial" in event:
            worker.trial, worker.since, worker.taken = event["trial"], time.monotonic(), worker.taken + 1
            worker.doing = f"trial {event['trial']}"
        elif "ended" in event:
            worker.trial, worker.doing, self._stillborn = None, "asking", 0
        elif "at" in event and worker.trial is not None:
            worker.doing = f"trial {worker.trial}: {event['at']}"
        elif "say" in event:
            self._view.say(event["say"])

    def _again(self, index: int, worker: _Worker) -> _Worker:
        """Puts a worker in the place of one that died."""
        if worker.trial is None:
            self._stillborn += 1
        if self._stillborn >= _STILLBORN:
            words = worker.log.read_text(errors="replace").strip().splitlines() or ["killed"]
            raise RunFailed(f"The study's workers die before they can work: {words[-1]} (all of it is in {worker.log})")
        return self._started(index)

    def _stop(self, words: str = "") -> None:
        self._stopping = True
        if words:
            self._view.say(words)
        for worker in self._workers:
            worker.stop()
