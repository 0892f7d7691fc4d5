"""Worker processes of the Python API: the user's process starts them, reuses them and interrupts them.

TensorFlow, Hydra and MLflow are loaded in a worker, never in the user's process. A worker that has finished a run is
kept for the next one, so that TensorFlow is imported once. It ends with the user's process.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightexp.core.errors import BadInput, LightexpError, RunFailed
from lightexp.execution.process import WorkerDied, WorkerProcess

LOGGER = logging.getLogger("lightexp")
STARTUP_VARIABLES = ("CUDA_", "KMP_", "LD_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON", "TF_", "XLA_")
"""Prefixes of the environment variables that libraries read once, when they are loaded."""
_MODULE = "lightexp.api.worker"
_PACKAGE_PARENT = str(Path(__file__).parents[2])
_MAX_IDLE = 2
"""Workers that are kept; one with TensorFlow takes about half a gigabyte."""
_MAX_INTERRUPTS = 3
"""Ctrl-C so many times kills the worker; the first ones ask it to stop."""
_ERRORS: dict[str, type[LightexpError]] = {"BadInput": BadInput, "RunFailed": RunFailed}


@dataclass(frozen=True)
class WorkerStartup:
    """The state of the user's process that a worker takes over when it starts, and only then.

    Attributes:
        variables: Environment variables that libraries read once, as sorted pairs.
    """

    variables: tuple[tuple[str, str], ...]

    @classmethod
    def from_process(cls) -> WorkerStartup:
        """Read the present state of this process."""
        names = sorted(name for name in os.environ if name.startswith(STARTUP_VARIABLES))
        return cls(tuple((name, os.environ[name]) for name in names))


class ApiWorker:
    """One worker process, and what the user's process knows of it.

    Attributes:
        startup: The state that the worker has started with.
        threads: TensorFlow's threads in the worker; None before it has started TensorFlow.
    """

    def __init__(self, startup: WorkerStartup) -> None:
        """Start the process."""
        self.startup = startup
        self.threads: int | None = None
        # The user may have made lightexp importable by `sys.path` alone, which a new process does not inherit.
        python_path = [*filter(None, [os.environ.get("PYTHONPATH")]), _PACKAGE_PARENT]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(python_path)}
        self._process = WorkerProcess(_MODULE, environment=environment)

    @property
    def is_running(self) -> bool:
        """Whether the process can take another request."""
        return self._process.is_running

    def call(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request, log the worker's messages, and return the reply.

        The first two Ctrl-C are passed to the worker, which then stops; the third kills it.

        Args:
            request: JSON types; see `lightexp.api.worker`.

        Raises:
            RunFailed: If the process ends without a reply.
            KeyboardInterrupt: If Ctrl-C was pressed and the worker has stopped.
        """
        events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

        def wait_for_reply() -> None:
            try:
                reply = self._process.call(request, on_event=events.put)
                events.put({"reply": reply.content})
            except WorkerDied as error:
                events.put({"died": error})

        # In a thread, so that Ctrl-C, which Python raises in the main thread, cannot tear a message.
        threading.Thread(target=wait_for_reply, daemon=True).start()
        interrupts = 0
        while True:
            try:
                event = events.get()
                if "log" in event:
                    LOGGER.log(event["level"], event["log"])
                    continue
                break
            except KeyboardInterrupt:
                interrupts += 1
                self._interrupt(interrupts)
        if interrupts:
            raise KeyboardInterrupt
        if "died" in event:
            raise RunFailed(_explain_death(event["died"]))
        reply: dict[str, Any] = event["reply"]
        return reply

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _interrupt(self, count: int) -> None:
        if count >= _MAX_INTERRUPTS:
            self._process.kill()
        else:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGINT)


def _explain_death(error: WorkerDied) -> str:
    hint = " It may have run out of memory." if error.cause == "SIGKILL" else ""
    return f"lightexp's worker process has ended ({error.cause}).{hint} {error.last_line}"


class ApiWorkerPool:
    """The idle workers of one process."""

    def __init__(self) -> None:
        """Start nothing."""
        self._start_empty()

    def _start_empty(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[ApiWorker] = []

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request to an idle worker or to a new one, keep the worker, and return the reply's result.

        Args:
            request: JSON types; see `lightexp.api.worker`.

        Raises:
            BadInput: If the worker reports bad input.
            RunFailed: If the work failed.
            KeyboardInterrupt: If it was interrupted.
        """
        threads: int | None = None
        while True:
            worker = self._acquire(threads)
            try:
                reply = worker.call(request)
            except BaseException:
                worker.close()
                raise
            worker.threads = reply["threads"]
            if reply["status"] in ("interrupted", "outdated"):
                worker.close()
            else:
                self._release(worker)
            if reply["status"] == "outdated":
                continue
            if reply["status"] == "other_threads":
                threads = reply["requested_threads"]
                continue
            return parse_reply(reply)

    def _acquire(self, threads: int | None) -> ApiWorker:
        """Return the idle worker that was used last, of a number of threads unless that is None, or a new worker."""
        if self._owner != os.getpid():
            self._start_empty()  # a fork: the workers, and a lock that was held, belong to the parent
        startup = WorkerStartup.from_process()
        with self._lock:
            self._idle = [worker for worker in self._idle if worker.is_running]
            for worker in reversed(self._idle):
                if worker.startup == startup and (threads is None or worker.threads in (None, threads)):
                    self._idle.remove(worker)
                    return worker
        return ApiWorker(startup)

    def _release(self, worker: ApiWorker) -> None:
        with self._lock:
            self._idle.append(worker)
            surplus = self._idle[:-_MAX_IDLE]
            self._idle = self._idle[-_MAX_IDLE:]
        for oldest in surplus:
            oldest.close()


def call_once(request: dict[str, Any]) -> dict[str, Any]:
    """Send a request to a worker that does nothing else, and return the reply's result.

    Raises:
        BadInput: If the worker reports bad input.
        RunFailed: If the work failed.
        KeyboardInterrupt: If it was interrupted.
    """
    worker = ApiWorker(WorkerStartup.from_process())
    try:
        return parse_reply(worker.call(request))
    finally:
        worker.close()


def parse_reply(reply: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a worker's reply, or raise the error that the reply describes."""
    if reply["status"] == "interrupted":
        raise KeyboardInterrupt
    if reply["status"] == "failed":
        raise _ERRORS[reply["error"]](reply["message"])
    result: dict[str, Any] = reply["result"]
    return result


def build_request(call: str, overrides: Sequence[str], **arguments: Any) -> dict[str, Any]:
    """Return a request with the present state of this process: current folder, environment and import path.

    Args:
        call: The name of the worker's function.
        overrides: As on the command line.
        arguments: Further arguments of the function, as JSON types.

    Raises:
        BadInput: If the current folder has been deleted.
    """
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        raise BadInput("the current folder has been deleted. Change to another one with os.chdir.") from None
    return {
        "call": call,
        "overrides": list(overrides),
        "arguments": arguments,
        "folder": folder,
        "environment": dict(os.environ),
        "path": [entry or folder for entry in sys.path if isinstance(entry, str)],
    }


WORKERS = ApiWorkerPool()
"""The workers of this process."""
