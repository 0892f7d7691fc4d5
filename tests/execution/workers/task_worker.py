"""A worker for tests of pools: its tasks are files in a folder, whose content says what becomes of the task."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightexp.core import interrupt
from lightexp.core.errors import RunFailed
from lightexp.execution.locks import FileLocks
from lightexp.execution.process import ParentConnection
from lightexp.execution.work import ClaimedTask, Events, WorkSource, WorkStatus, run_tasks


class FolderSource(WorkSource):
    """Tasks in a folder: `0.todo` and so on, each of which becomes `0.done` or `0.failed`."""

    def __init__(self, folder: Path, events: Events | None = None, retries: bool = False) -> None:
        self.folder, self._events, self._retries = folder, events, retries
        self._locks = FileLocks(folder / "locks")
        self.stop_reason: str | None = None

    def add(self, *actions: str) -> None:
        """Add tasks: `fine`, `fail`, `full`, `raise`, `die`, `die once`, `sleep SECONDS` or `mark SECONDS`."""
        for number, action in enumerate(actions):
            (self.folder / f"{number}.todo").write_text(action)

    def claim(self) -> ClaimedTask | None:
        for path in sorted(self.folder.glob("*.todo")):
            if not self._locks.acquire(path.stem):
                continue
            if path.exists():
                (self.folder / f"{path.stem}.started").touch()
                return ClaimedTask(path.stem, f"task {path.stem}", self._make_action(path))
            self._locks.release(path.stem)
        return None

    def _make_action(self, path: Path) -> Callable[[], str]:
        def run() -> str:
            action, _, argument = path.read_text().partition(" ")
            if action == "fail":
                raise RunFailed("it cannot work")
            if action == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if action == "raise":
                raise ZeroDivisionError("unexpected")
            if action == "die":
                if argument:
                    path.write_text("fine")
                os.kill(os.getpid(), signal.SIGKILL)
            if action == "sleep":
                if self._events:
                    self._events.report_activity("sleeping")
                    self._events.report_message(f"task {path.stem} sleeps")
                time.sleep(float(argument))
            return action

        return run

    def finish(self, task: ClaimedTask, result: str) -> dict[str, Any]:
        self._end(task.id, "done")
        return {"result": result}

    def fail(self, task_id: str, reason: str) -> None:
        self._end(task_id, "failed", reason)

    def abandon(self, task_id: str, cause: str) -> str | None:
        return None if self._retries else super().abandon(task_id, cause)

    def status(self) -> WorkStatus:
        waiting = len(list(self.folder.glob("*.todo")))
        ended = len(self.ended())
        return WorkStatus(waiting, 0, ended, False, ended, self.stop_reason)

    def ended(self) -> dict[str, str]:
        """How tasks have ended: `done`, or `failed` with the reason."""
        return {
            path.stem: f"{path.suffix[1:]} {path.read_text()}".strip()
            for path in sorted(self.folder.glob("*.*"))
            if path.suffix in (".done", ".failed")
        }

    def _end(self, task_id: str, suffix: str, text: str = "") -> None:
        (self.folder / f"{task_id}.{suffix}").write_text(text)
        (self.folder / f"{task_id}.todo").unlink(missing_ok=True)
        self._locks.release(task_id)


def main() -> None:
    interrupt.install_handlers()
    parent = ParentConnection()
    request = parent.receive()
    if request is None or request.content.get("is_broken"):
        raise SystemExit("this worker is broken")
    with suppress(KeyboardInterrupt):
        run_tasks(FolderSource(Path(request.content["folder"]), Events(parent)), parent)
    if request.content.get("marks_end"):
        (Path(request.content["folder"]) / f"{os.getpid()}.end").touch()


if __name__ == "__main__":
    main()
