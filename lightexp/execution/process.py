"""Worker processes: start one, exchange messages and arrays with it, limit its time, and end it with its parent.

A worker reads its input in a separate thread. The input closes when the parent closes it or when the parent ends, in
whatever way; a worker that is idle then returns from its loop, and one that is busy receives SIGTERM. This works on
every platform and needs no other mechanism: Linux' `PR_SET_PDEATHSIG`, for one, fires when the starting *thread* ends.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from typing import IO, TYPE_CHECKING, Any

from lightexp.execution.channel import Channel, Message

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXTRA_PATH_VARIABLE = "LIGHTEXP_EXTRA_PATH"
"""Environment variable: folders that workers append to `sys.path`, where a user's plugins are found."""
LAUNCH_VARIABLE = "LIGHTEXP_LAUNCH"
"""Environment variable of the processes that a launcher has started; see `launch_guard`. Workers end without it."""
_CLOSE_GRACE_S = 5.0
_ORPHAN_GRACE_S = 10.0  # for a worker to record that its task was interrupted


def isolate_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables with which no Python process imports a library from the current folder.

    There a file of others may carry the name of a module. `PYTHONSAFEPATH` also holds for processes that libraries
    start. An empty entry of `PYTHONPATH`, such as a trailing colon leaves, means the current folder and is left out;
    the other relative ones are moved to `EXTRA_PATH_VARIABLE`, since the user may have plugins there.
    """
    python_path = environment.get("PYTHONPATH", "").split(os.pathsep)
    extra_path = [environment[EXTRA_PATH_VARIABLE]] if environment.get(EXTRA_PATH_VARIABLE) else []
    extra_path += [os.path.abspath(entry) for entry in python_path if entry and not os.path.isabs(entry)]
    paths = {
        "PYTHONPATH": os.pathsep.join(entry for entry in python_path if os.path.isabs(entry)),
        EXTRA_PATH_VARIABLE: os.pathsep.join(extra_path),
    }
    others = {name: value for name, value in environment.items() if name not in (*paths, LAUNCH_VARIABLE)}
    return {**others, **{name: path for name, path in paths.items() if path}, "PYTHONSAFEPATH": "1"}


@contextmanager
def isolated_children() -> Iterator[None]:
    """Isolate the environment of this process in a block, for the processes that libraries start; see above."""
    previous = dict(os.environ)
    _copy_path_variables(isolate_environment(previous))
    try:
        yield
    finally:
        _copy_path_variables(previous)


def _copy_path_variables(source: Mapping[str, str]) -> None:
    for name in ("PYTHONPATH", "PYTHONSAFEPATH", EXTRA_PATH_VARIABLE):
        os.environ.pop(name, None)
        os.environ.update({name: source[name]} if name in source else {})


class WorkerDied(BrokenPipeError):
    """Raised by a call to a worker that has ended, or that was killed at its time limit.

    Attributes:
        cause: What the worker died of, such as `SIGKILL` or `exit code 1`.
        last_line: The last line that it has written to its standard error; empty if that is another file.
    """

    def __init__(self, cause: str, last_line: str = "") -> None:
        says_why = last_line and cause.startswith("exit code")  # as Python does, whereas a signal comes unannounced
        super().__init__(f"its process has ended ({cause}){f': {last_line}' if says_why else ''}")
        self.cause, self.last_line = cause, last_line


class WorkerProcess:
    """A worker process, from its parent's side.

    The worker has its own session, so that Ctrl-C on a terminal reaches the parent alone. It ends when this object
    is collected and when the parent ends.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        stderr: Any = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process.

        Args:
            module: The module that it runs, as `python -P -m MODULE`: no file of the current folder replaces a module.
            arguments: The module's arguments.
            stderr: A file for its standard error. Defaults to None: one in memory, whose last line `WorkerDied` quotes.
            environment: Its environment variables. Defaults to those of this process.
        """
        self._stderr = os.fdopen(os.memfd_create("stderr"), "rb") if stderr is None else None
        self._last_line = ""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr or stderr,
            env=isolate_environment(os.environ if environment is None else environment),
            bufsize=0,
            start_new_session=True,
        )
        assert isinstance(self._process.stdin, FileIO) and isinstance(self._process.stdout, FileIO)
        self._channel = Channel(self._process.stdout, self._process.stdin)
        self._call_lock = threading.Lock()
        self._calls = 0
        self._finalizer = weakref.finalize(self, _end_process, self._process, self._stderr, os.getpid())

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def call(
        self,
        request: dict[str, Any],
        array: NDArray[Any] | None = None,
        *,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        timeout: float | None = None,
    ) -> Message:
        """Send a request and return the reply.

        Args:
            request: JSON types.
            array: An array that goes with it. Defaults to None.
            on_event: Called with each event that the worker sends meanwhile. Defaults to ignoring them.
            timeout: Seconds after which the worker is killed. Defaults to no limit.

        Raises:
            WorkerDied: If the worker ends before it replies.
        """
        watchdog = threading.Timer(timeout, self.kill) if timeout else None
        with self._call_lock:
            self._calls += 1
            number = self._calls
            if watchdog:
                watchdog.start()
            try:
                self._channel.send(Message("request", request, array, number))
                for message in self.messages():
                    if message.kind == "event" and on_event:
                        on_event(message.content)
                    elif (
                        message.kind == "reply" and message.number == number
                    ):  # an older reply: its call was interrupted
                        return message
            except (OSError, ValueError):  # it has ended, or was closed
                pass
            finally:
                if watchdog:
                    watchdog.cancel()
        cause = self.describe_exit()
        raise WorkerDied(cause, self._last_line)

    def send(self, content: dict[str, Any]) -> None:
        """Send a request whose reply nobody waits for; nothing happens if the worker has ended."""
        with suppress(OSError, ValueError):
            self._channel.send(Message("request", content))

    def messages(self) -> Iterator[Message]:
        """Yield what the worker sends until it ends or closes its output."""
        while (message := self._channel.receive()) is not None:
            yield message

    def request_stop(self) -> None:
        """Ask the worker to finish its task and take no other."""
        with suppress(OSError, ValueError):
            self._channel.send(Message("stop", {}))

    def terminate(self) -> None:
        """Send SIGTERM to the worker and to the processes that it has started."""
        _signal_group(self._process, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the worker and to the processes that it has started."""
        _signal_group(self._process, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code.

        Raises:
            subprocess.TimeoutExpired: If it still runs after `timeout` seconds.
        """
        return self._process.wait(timeout)

    def disconnect(self) -> None:
        """Close the worker's input, as the end of this process would."""
        with suppress(OSError):
            assert self._process.stdin
            self._process.stdin.close()

    def close(self, grace: float = _CLOSE_GRACE_S) -> int:
        """Close the worker's input, wait for its end and return its exit code.

        Args:
            grace: Seconds after which it is killed. Defaults to 5.
        """
        self.disconnect()
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()
        code = self._process.wait()
        if self._stderr and not self._stderr.closed:
            self._stderr.seek(0)
            lines = self._stderr.read().decode(errors="replace").splitlines()
            self._last_line = next((line.strip() for line in reversed(lines) if line.strip()), "")
        self._finalizer()
        return code

    def describe_exit(self, grace: float = _CLOSE_GRACE_S) -> str:
        """Close it as `close` does and return what it died of: a signal's name or an exit code."""
        code = self.close(grace)
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:  # else the group's id may belong to others by now
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


def _end_process(process: subprocess.Popen[bytes], stderr: IO[bytes] | None, owner: int) -> None:
    if os.getpid() != owner:  # a fork of the owner, which still uses the worker
        return
    _signal_group(process, signal.SIGKILL)
    for stream in (process.stdin, process.stdout, stderr):
        with suppress(OSError):
            if stream is not None:
                stream.close()
    process.wait()


class ParentConnection:
    """The connection to the parent, from the worker's side."""

    def __init__(self) -> None:
        """Claim this process' standard input and output; what libraries print goes to standard error.

        If the parent ends while the worker is busy, the worker receives SIGTERM, and SIGKILL if it does not end then.
        """
        requests, replies = FileIO(os.dup(0), "rb"), FileIO(os.dup(1), "wb")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        self._channel = Channel(requests, replies)
        extra_path = os.environ.get(EXTRA_PATH_VARIABLE, "").split(os.pathsep)
        sys.path += [entry for entry in extra_path if entry and entry not in sys.path]
        self._requests: queue.Queue[Message | None] = queue.Queue()
        self._lock = threading.Lock()
        self._busy = self._orphaned = False
        self._number = 0
        self._stop_requested = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def stop_requested(self) -> bool:
        """Whether the parent has asked the worker to take no further task."""
        return self._stop_requested.is_set()

    def receive(self) -> Message | None:
        """Wait for the next request, during which the worker is idle; None once the parent has gone."""
        with self._lock:
            self._busy = False
        message = self._requests.get()
        with self._lock:
            self._busy = message is not None
            orphaned = self._orphaned
        if message is None:
            return None
        self._number = message.number
        if orphaned:
            _terminate_self()
        return message

    def reply(self, content: dict[str, Any], array: NDArray[Any] | None = None) -> None:
        """Answer the request that was received last; the worker is idle from then on."""
        with self._lock:
            self._busy = False
        self._send(Message("reply", content, array, self._number))

    def send_event(self, **content: Any) -> None:
        """Tell the parent something that is no answer."""
        self._send(Message("event", content))

    def wait_for_stop(self, timeout: float) -> bool:
        """Sleep for `timeout` seconds, or until the parent asks to stop; return whether it has."""
        return self._stop_requested.wait(timeout)

    def _send(self, message: Message) -> None:
        with suppress(BrokenPipeError):
            self._channel.send(message)

    def _read(self) -> None:
        while (message := self._channel.receive()) is not None:
            if message.kind == "stop":
                self._stop_requested.set()
            else:
                self._requests.put(message)
        with self._lock:
            self._orphaned = True
            busy = self._busy
        self._requests.put(None)
        if busy:
            _terminate_self()


def _terminate_self() -> None:
    """Send SIGTERM to this process, then SIGKILL: C code may keep Python from calling the handler of SIGTERM."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_GRACE_S)
    os.killpg(0, signal.SIGKILL)
