"""Sandbox: read and run files of unknown origin in a worker process, so that a crash there is one error line here.

One worker serves all calls of a process. It is started by the first call and started again after a crash.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput, LightexpError, RunFailed
from lightexp.execution.channel import Message
from lightexp.execution.process import ParentConnection, WorkerDied, WorkerProcess

TIME_LIMIT_S = 300.0
"""Seconds for one call; a file that takes longer for 500 examples hangs."""
_MODULES = {
    "run_model": ("litert",),
    "collect_ranges": ("litert",),
    "time_single_example": ("litert",),
    "quantize": ("edge_quantizer", "litert_quantizer.quantizer"),
    "extract": ("keras_archive",),
    "compute_keras_outputs": ("keras3_process",),
    "write_keras_file": ("keras3_writer",),
    "run_in_arena": ("micro", "tflite_micro.python.tflite_micro.runtime"),
    "profile_in_process": ("operator_profile",),
    "estimate_for_npu": ("vela", "ethosu.regor"),
    "compile_for_npu": ("vela", "ethosu.regor"),
}
"""Functions that can be called: the backend module of each, and the library that it imports when it is called."""
_SINGLE_USE = frozenset({"compute_keras_outputs", "write_keras_file"})
"""Functions whose process ends after the call, since their libraries are large and mix with no others."""
_ADVICE = "To check the installation: lightexp doctor"
_OTHERS_SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
"""Signals that another process has sent; the others are those of a crash."""
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
        RunFailed: If the worker cannot start, cannot import a library or is killed, which says nothing of the file.
    """
    global _worker
    request = {"function": function, "file": str(file), **settings}
    if function in _SINGLE_USE:
        worker = WorkerProcess("lightexp.backend.sandbox")
        reply = _call(worker, request, array)
        worker.close()
    else:
        with _lock:
            if _worker is None or not _worker.is_running:
                _worker = WorkerProcess("lightexp.backend.sandbox")
            worker, _worker = _worker, None  # for good if the call fails
            reply = _call(worker, request, array)
            _worker = worker
    if "refused" in reply.content:
        raise BadInput(reply.content["refused"])
    if "failed" in reply.content:
        raise RunFailed(reply.content["failed"])
    assert reply.array is not None
    return reply.array


def _call(worker: WorkerProcess, request: dict[str, Any], array: NDArray[np.generic]) -> Message:
    """Send a request to a worker and return the reply; after an exception, the worker has ended."""
    events: list[dict[str, Any]] = []
    start, file = time.monotonic(), Path(request["file"])
    try:
        return worker.call(request, np.ascontiguousarray(array), on_event=events.append, timeout=TIME_LIMIT_S)
    except WorkerDied as error:
        raise _explain_death(error, file, has_imported=bool(events), seconds=time.monotonic() - start) from None
    except BaseException:  # an interrupt: the worker still computes
        worker.kill()
        raise


def _explain_death(error: WorkerDied, file: Path, has_imported: bool, seconds: float) -> LightexpError:
    """Return the error for a worker's death: the file's fault only if it crashed or stalled what reads it."""
    if not has_imported:
        return RunFailed(f"The process that reads {file} could not start: {error}. {_ADVICE}")
    if seconds >= TIME_LIMIT_S:
        return BadInput(f"{file} keeps the process that reads it busy for {TIME_LIMIT_S:g} s. Use a smaller model.")
    if error.cause in _OTHERS_SIGNALS:
        hint = " It may have run out of memory." if error.cause == "SIGKILL" else ""
        return RunFailed(f"The process that read {file} was killed ({error.cause}).{hint} Run the same command again.")
    return BadInput(
        f"{file} killed the process that read it ({error.cause}): it is broken, or asks for what the runtime "
        "cannot do. Make it again; a .tflite, with LiteRT's built-in operators."
    )


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
            function = _import_function(name)
        except Exception as error:  # a broken installation raises anything
            parent.reply({"failed": f"A library that reads {file} cannot be imported: {_summarize(error)}. {_ADVICE}"})
            continue
        parent.send_event(imported=name)
        try:
            parent.reply({}, function(file, request.array, **settings))
        except BadInput as error:
            parent.reply({"refused": str(error)})
        except RunFailed as error:
            parent.reply({"failed": str(error)})
        except (ImportError, OSError) as error:
            parent.reply({"failed": f"{file} could not be read: {_summarize(error)}. {_ADVICE}"})
        except Exception as error:  # a library raises anything on a file that it did not expect
            parent.reply({"refused": f"{file} cannot be used: {_summarize(error)}. Make it again."})


def _import_function(name: str) -> Callable[..., NDArray[Any]]:
    """Import a function, and the library that it would import when it is called."""
    module, *libraries = _MODULES[name]
    for library in libraries:
        import_module(library)
    function: Callable[..., NDArray[Any]] = getattr(import_module(f"lightexp.backend.{module}"), name)
    return function


def _summarize(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


if __name__ == "__main__":
    main()
