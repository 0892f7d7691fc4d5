"""A command whose work several processes do, on whatever hosts: what they have to know of it, in a shared folder."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lightexp.ablation.runs import AblationRun

_POLL = 1.0  # seconds


@dataclass(frozen=True)
class CommandSession:
    """One call of the command.

    Attributes:
        path: What its files' names begin with.
        workers: How many processes share the cores.
    """

    path: Path
    workers: int

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """The command's own context: as long as it is in it, and alive, others work for it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._lock():
                yield
        finally:
            for path in self.path.parent.glob(f"{self.path.name}*"):
                path.unlink(missing_ok=True)

    @contextmanager
    def watched(self, stop: Callable[[], None]) -> Iterator[None]:
        """Another process' context, in which `stop` is called once the command has ended, however it has."""
        over = threading.Event()

        def watch() -> None:
            while not over.is_set():
                try:
                    self._lock().acquire(timeout=_POLL).lock.release()
                except Timeout:
                    continue
                if not over.is_set():
                    stop()
                return

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def failed(self, job: AblationRun, reason: str) -> None:
        """Enters that a job has failed, so that nobody tries it again."""
        draft = self.path.with_name(f"{self.path.name}-{uuid.uuid4().hex}")
        draft.write_text(json.dumps([*job.place, reason]), encoding="utf-8")
        draft.rename(draft.with_suffix(".json"))

    def failures(self) -> dict[tuple[str, int], str]:
        """Why jobs have failed, by row and seed."""
        found = (json.loads(p.read_text(encoding="utf-8")) for p in self.path.parent.glob(f"{self.path.name}-*.json"))
        return {(row, seed): reason for row, seed, reason in found}

    def _lock(self) -> FileLock:
        return FileLock(self.path.with_name(f"{self.path.name}.lock"), thread_local=False)
