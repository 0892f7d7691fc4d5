"""Several processes that work off tasks, together with the crews of other hosts that share the folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lightexp.execution.json_lines import WorkerProcess, close

WORKER = "lightexp.ablation.worker"
_POLL = 1.0  # seconds until another host's work is looked at again
Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """Something that one process does.

    Attributes:
        name: For people.
        request: What the worker is asked; see `lightexp.ablation.worker`.
        lock: Name of the lock that its doer holds, whatever the host.
        needs: Keys of the store that must be there first.
        makes: The key that it puts there, if that is its purpose.
        done: Whether it has been done already, perhaps by another host.
    """

    name: str
    request: dict[str, Any]
    lock: str
    needs: frozenset[str]
    makes: str | None
    done: Callable[[], bool]


Ended = Callable[[Task, dict[str, Any]], None]


class TaskPool:
    """Workers over one list of tasks: each takes the first that nobody is at and whose needs are there."""

    def __init__(self, tasks: Sequence[Task], locks: Path, has: Callable[[str], bool], ended: Ended, say: Say) -> None:
        """Starts nothing yet.

        Args:
            tasks: In the order in which they are to be taken.
            locks: A folder that every host of the crew sees.
            has: Whether the store has a key.
            ended: Told of each task that has ended, with the worker's answer; one call at a time.
            say: Takes lines for the user.
        """
        self._waiting, self._locks, self._has, self._ended, self._say = list(tasks), locks, has, ended, say
        self._changed = threading.Condition()
        self._broken: dict[str, str] = {}
        self._children: list[WorkerProcess] = []
        self._stopped = False

    def work(self, workers: int) -> None:
        """Works until no task is left.

        Raises:
            KeyboardInterrupt: If it, or a worker, was interrupted; the workers have stopped.
        """
        self._locks.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(workers) as threads:
            served = [threads.submit(self._serve) for _ in range(workers)]
            try:
                for each in served:
                    each.result()
            except BaseException:
                self.stop()
                raise
        if self._stopped:
            raise KeyboardInterrupt

    def stop(self) -> None:
        """Ends the workers in the middle of what they do; `work` raises KeyboardInterrupt."""
        with self._changed:
            self._stopped = True
            for child in self._children:
                child.process.terminate()
            self._changed.notify_all()

    def _serve(self) -> None:
        child: WorkerProcess | None = None
        while claimed := self._claim():
            task, lock = claimed
            try:
                if child is None:
                    child = WorkerProcess(WORKER)
                    self._children.append(child)
                answer = _answer(child, task.request, partial(self._told, task.name))
            finally:
                lock.release()
            if child.process.poll() is not None:
                close(child.process)
                child = None
            if "interrupted" in answer:
                self.stop()
                break
            with self._changed:
                if "failed" in answer and task.makes:
                    self._broken[task.makes] = answer["failed"]
                self._ended(task, answer)
                self._changed.notify_all()
        if child:
            close(child.process)

    def _told(self, name: str, words: str) -> None:
        self._say(f"  {name}: {words}")

    def _claim(self) -> tuple[Task, FileLock] | None:
        """The next task that can be done, with its lock; None when there is none left."""
        with self._changed:
            while self._waiting and not self._stopped:
                for task in list(self._waiting):
                    if found := self._take(task):
                        return task, found
                if self._waiting:
                    self._changed.wait(_POLL)
        return None

    def _take(self, task: Task) -> FileLock | None:
        if broken := sorted(task.needs & set(self._broken)):
            self._waiting.remove(task)
            if task.makes:
                self._broken[task.makes] = self._broken[broken[0]]
            self._ended(task, {"failed": self._broken[broken[0]]})
            return None
        if not all(map(self._has, task.needs)):
            return None
        lock = FileLock(self._locks / f"{task.lock}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        self._waiting.remove(task)
        if task.done():
            lock.release()
            return None
        return lock


def _answer(child: WorkerProcess, request: dict[str, Any], say: Say) -> dict[str, Any]:
    """Has a task done; a process that dies over it is an answer, too."""
    try:
        return child.call(request, say)
    except BrokenPipeError:
        code = child.process.wait()
        return {"failed": f"its process ended with {code}" if code >= 0 else f"its process died of signal {-code}"}
