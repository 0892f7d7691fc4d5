"""A process of its own for files that are not ours: what kills it there is one clear line here.

One child for all of a process's calls. A request is a line of JSON and the bytes of one array; so is the answer.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput

PATIENCE = 300.0
"""Seconds for one call's answer; a file that takes longer for 500 examples hangs."""
_FUNCTIONS = {
    "run_model": "litert",
    "collect_ranges": "litert",
    "time_single_example": "litert",
    "quantize": "edge_quantizer",
    "extract": "keras_archive",
    "run_in_arena": "micro",
}
"""What can be called, by the module that is imported for it."""


@dataclass
class _Child:
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls) -> _Child:
        # In a session of its own, so that Ctrl-C is the parent's alone; it ends when its input does.
        return cls(
            subprocess.Popen(
                [sys.executable, "-m", "lightexp.backend.sandbox"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )

    def ask(self, request: dict[str, Any], array: NDArray[np.generic]) -> tuple[dict[str, Any], NDArray[np.generic]]:
        """Sends a request and reads the answer.

        Raises:
            EOFError: If the child died or hung.
        """
        assert self.process.stdin and self.process.stdout
        watchdog = threading.Timer(PATIENCE, self.process.kill)
        watchdog.start()
        try:
            _send(self.process.stdin, request, array)
            return _receive(self.process.stdout)
        except (OSError, ValueError) as error:
            raise EOFError from error
        finally:
            watchdog.cancel()

    def end(self) -> str:
        """Ends it, if it has not ended; returns what it died of, in words."""
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                pipe.close() if pipe else None
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


_child: _Child | None = None
_lock = threading.Lock()


def run_sandboxed(function: str, file: Path, array: NDArray[np.generic], **settings: Any) -> NDArray[Any]:
    """Calls in the child.

    Args:
        function: One of `_FUNCTIONS`.
        file: The file.
        array: Its examples.
        **settings: Its other arguments, as JSON types.

    Raises:
        BadInput: If the file cannot be run, or the child died of it.
    """
    global _child
    with _lock:
        if _child is None or _child.process.poll() is not None:
            _child = _Child.start()
            atexit.register(_child.end)
        try:
            head, found = _child.ask({"function": function, "file": str(file), **settings}, array)
        except EOFError:
            died, _child = _child.end(), None
            raise BadInput(
                f"{file} killed the process that read it ({died}): it is broken, or asks for what the runtime "
                "cannot do. Make it again; a .tflite, with LiteRT's built-in operators."
            ) from None
        except BaseException:  # an interrupt in the middle of an answer
            _child.process.kill()
            _child.end()
            _child = None
            raise
    if "refused" in head:
        raise BadInput(head["refused"])
    return found


def _send(pipe: IO[bytes], head: dict[str, Any], array: NDArray[np.generic]) -> None:
    array = np.ascontiguousarray(array)
    text = json.dumps({**head, "array": [array.dtype.str, array.shape]})
    pipe.write(f"{text}\n".encode())
    pipe.write(array.data.cast("B") if array.size else b"")
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], NDArray[np.generic]]:
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    head = json.loads(line)
    kind, shape = head.pop("array")
    dtype = np.dtype(kind)
    size = dtype.itemsize * int(np.prod(shape))
    body = pipe.read(size)
    if len(body) != size:
        raise EOFError
    return head, np.frombuffer(body, dtype).reshape(shape)


def _serve() -> None:
    """Answers until the input ends."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # whatever LiteRT prints is not an answer
        os.dup2(nothing, standard)
    while True:
        try:
            head, array = _receive(requests)
        except EOFError:
            return
        name, file = head.pop("function"), Path(head.pop("file"))
        try:
            function = getattr(import_module(f"lightexp.backend.{_FUNCTIONS[name]}"), name)
            _send(answers, {}, function(file, array, **head))
        except BadInput as error:
            _send(answers, {"refused": str(error)}, np.empty(0, np.float32))
        except Exception as error:  # libraries raise whatever they meet in a file that others made
            words = " ".join(f"{type(error).__name__}: {error}".split())
            _send(
                answers, {"refused": f"{file} cannot be used: {words[:200]}. Make it again."}, np.empty(0, np.float32)
            )


if __name__ == "__main__":
    _serve()
