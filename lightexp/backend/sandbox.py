"""Sandbox: read and run files of unknown origin in a worker process, so that a crash there is one error line here.

One worker serves all calls of a process. It is started by the first call and started again after a crash.
"""

from __future__ import annotations

import os
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput
from lightexp.execution.process import ParentConnection, WorkerDied, WorkerProcess

TIME_LIMIT_S = 300.0
"""Seconds for one call; a file that takes longer for 500 examples hangs."""
_MODULES = {
    "run_model": "litert",
    "collect_ranges": "litert",
    "time_single_example": "litert",
    "quantize": "edge_quantizer",
    "extract": "keras_archive",
    "run_in_arena": "micro",
}
"""Functions that can be called, with the backend module of each, which the worker imports on demand."""
_worker: WorkerProcess | None = None
_lock = threading.Lock()


def run_sandboxed(function: str, file: Path, array: NDArray[np.generic], **settings: Any) -> NDArray[Any]:
    """Call a function of the backend in the sandbox.

    Args:
        function: A key of `_MODULES`.
        file: Its first argument, a file of unknown origin.
        array: Its second argument, such as examples of shape (count, ...).
        **settings: Its other arguments, as JSON types.

    Returns:
        The function's result.

    Raises:
        BadInput: If the file cannot be used, crashes the worker or exceeds the time limit.
    """
    global _worker
    with _lock:
        if _worker is None or not _worker.is_running:
            _worker = WorkerProcess("lightexp.backend.sandbox")
        request = {"function": function, "file": str(file), **settings}
        try:
            reply = _worker.call(request, np.ascontiguousarray(array), timeout=TIME_LIMIT_S)
        except WorkerDied as error:
            _worker = None
            raise BadInput(
                f"{file} killed the process that read it ({error.cause}): it is broken, or asks for what the runtime "
                "cannot do. Make it again; a .tflite, with LiteRT's built-in operators."
            ) from None
        except BaseException:  # an interrupt: the worker still computes
            _worker.kill()
            _worker = None
            raise
    if "refused" in reply.content:
        raise BadInput(reply.content["refused"])
    assert reply.array is not None
    return reply.array


def main() -> None:
    """Serve calls until the parent has gone."""
    parent = ParentConnection()
    devnull = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):  # LiteRT prints to both
        os.dup2(devnull, descriptor)
    while (request := parent.receive()) is not None:
        settings = dict(request.content)
        name, file = settings.pop("function"), Path(settings.pop("file"))
        try:
            function = getattr(import_module(f"lightexp.backend.{_MODULES[name]}"), name)
            parent.reply({}, function(file, request.array, **settings))
        except BadInput as error:
            parent.reply({"refused": str(error)})
        except Exception as error:  # a library raises anything on a file that it did not expect
            message = " ".join(f"{type(error).__name__}: {error}".split())
            parent.reply({"refused": f"{file} cannot be used: {message[:200]}. Make it again."})


if __name__ == "__main__":
    main()
