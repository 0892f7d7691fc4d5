"""Run `.tflite` files with TensorFlow Lite for Microcontrollers and measure the memory that they need.

The embedded interpreter does not check its input: a bad file, or an arena that is too small, can crash the process, so
it runs in the sandbox.
"""

from __future__ import annotations

import platform
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightexp.backend import sandbox
from lightexp.backend.output_capture import capture_output
from lightexp.core.errors import BadInput, RunFailed

_LARGE_ARENA = 256 << 20  # bytes; only pages that are written to take memory
_ARENA_STEP = 64  # bytes
_MAX_EXTRA = 1 << 20  # bytes to try beyond what the interpreter reports
_SOURCE_LINE = re.compile(r"\S+[.]cc(:\d+)? ")


class ArenaSizes(NamedTuple):
    """Bytes of the memory (arena) that a model works in.

    Attributes:
        minimum: The smallest arena in which the model starts and runs, found in steps of 64 bytes from head + tail.
            While preparing its operators the interpreter may need more than head + tail.
        head: Memory of activations, as the interpreter reports it.
        tail: Memory that lives as long as the interpreter, as it reports it.
    """

    minimum: int
    head: int
    tail: int


def find_unavailable_reason() -> str | None:
    """Return why the embedded interpreter is not available here, or None if it is."""
    if find_spec("tflite_micro"):
        return None
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        return "the package tflite-micro is not installed: pip install --pre tflite-micro"
    return f"the package tflite-micro is made for Linux on x86-64, not for {platform.system()} on {platform.machine()}"


def measure_arena(tflite: Path) -> ArenaSizes:
    """Run a file on zeros, and find the smallest arena in which it runs.

    Raises:
        BadInput: If it does not run; with the interpreter's message.
        RunFailed: If the interpreter cannot be started here, which says nothing of the file.
    """
    head, tail = _run(tflite, _LARGE_ARENA)
    reported = head + tail
    if _can_run(tflite, reported):
        return ArenaSizes(reported, head, tail)
    too_few, enough = 0, 1  # steps beyond what the interpreter reports
    while not _can_run(tflite, reported + enough * _ARENA_STEP):
        too_few, enough = enough, 2 * enough
        if enough * _ARENA_STEP > _MAX_EXTRA:
            raise BadInput(f"it does not start in {_MAX_EXTRA >> 20} MiB more than the {reported} bytes that it counts")
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if _can_run(tflite, reported + middle * _ARENA_STEP):
            enough = middle
        else:
            too_few = middle
    return ArenaSizes(reported + enough * _ARENA_STEP, head, tail)


def _run(tflite: Path, arena: int) -> tuple[int, int]:
    head, tail = sandbox.run_sandboxed("run_in_arena", tflite, np.empty(0, np.float32), arena=arena)
    return int(head), int(tail)


def _can_run(tflite: Path, arena: int) -> bool:
    try:
        _run(tflite, arena)
    except BadInput:
        return False
    return True


def run_in_arena(tflite: Path, unused: NDArray[Any], arena: int) -> NDArray[np.int64]:
    """Run a file on zeros in an arena of a given size; to be called in the sandbox.

    Args:
        tflite: The file.
        unused: An array; calls of the sandbox pass one.
        arena: Bytes of the arena.

    Returns:
        Bytes of the arena's head and tail, `(2,)`.

    Raises:
        BadInput: If the file does not run; with the interpreter's message.
        OSError: If it cannot be read.
        RunFailed: If there is too little memory on this machine.
    """
    from tflite_micro.python.tflite_micro import runtime

    content, failure = tflite.read_bytes(), ""
    with capture_output(2) as read_output:  # where it reports errors and allocations
        try:
            interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
            details = interpreter.get_input_details(0)
            interpreter.set_input(np.zeros(details["shape"], details["dtype"]), 0)
            interpreter.invoke()
            interpreter.print_allocations()
        except MemoryError:
            raise RunFailed(f"TFLite Micro gets no {arena:,} bytes of memory for {tflite}.") from None
        except Exception as error:  # the interpreter and its flatbuffer reader document no types
            failure = str(error)
        output = read_output()
    if failure:
        lines = [_SOURCE_LINE.sub("", line).strip().rstrip(".") for line in output.splitlines() if line.strip()]
        raise BadInput("; ".join(lines[:2]) or failure)
    sizes = [re.search(rf"allocation {part} (\d+)", output) for part in ("head", "tail")]
    return np.array([int(size[1]) for size in sizes if size], np.int64)
