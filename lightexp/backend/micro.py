"""Runs `.tflite` files by TensorFlow Lite for Microcontrollers, on this machine, in a process of its own.

The embedded interpreter trusts its input: a bad file, or an arena that is too small, can kill the process.
"""

from __future__ import annotations

import os
import platform
import re
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightexp.backend import sandbox
from lightexp.core.errors import BadInput

_AMPLE = 256 << 20  # bytes, of which only what is written to is ever there
_STEP = 64
_MOST = 1 << 20  # bytes beyond what the interpreter has counted
_SOURCE = re.compile(r"\S+[.]cc:\d+ ")


class ArenaSizes(NamedTuple):
    """Bytes of the memory that a model works in.

    Attributes:
        least: The smallest arena in which it starts and runs, in steps of 64 beyond head + tail: while it prepares its
            operators it may need more than those.
        head: For activations, as the interpreter counts them.
        tail: For what lives as long as the interpreter.
    """

    minimum: int
    head: int
    tail: int


def find_unavailable_reason() -> str | None:
    """Why there is no embedded interpreter here, or None where there is one."""
    if find_spec("tflite_micro"):
        return None
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        return "the package tflite-micro is not installed: pip install --pre tflite-micro"
    return f"the package tflite-micro is made for Linux on x86-64, not for {platform.system()} on {platform.machine()}"


def measure_arena(tflite: Path) -> ArenaSizes:
    """Runs a file once on zeros, and finds the smallest arena that it runs in.

    Raises:
        BadInput: If it does not run there; says why.
    """
    head, tail = _run(tflite, _AMPLE)
    counted = head + tail
    if _runs(tflite, counted):
        return ArenaSizes(counted, head, tail)
    fails, runs = 0, 1  # in steps beyond what was counted
    while not _runs(tflite, counted + runs * _STEP):
        fails, runs = runs, 2 * runs
        if runs * _STEP > _MOST:
            raise BadInput(f"it does not start in {_MOST >> 20} MiB more than the {counted} bytes that it counts")
    while runs - fails > 1:
        middle = (fails + runs) // 2
        fails, runs = (fails, middle) if _runs(tflite, counted + middle * _STEP) else (middle, runs)
    return ArenaSizes(counted + runs * _STEP, head, tail)


def _run(tflite: Path, size: int) -> tuple[int, int]:
    head, tail = sandbox.run_sandboxed("run_in_arena", tflite, np.empty(0, np.float32), arena=size)
    return int(head), int(tail)


def _runs(tflite: Path, size: int) -> bool:
    try:
        _run(tflite, size)
    except BadInput:
        return False
    return True


def run_in_arena(tflite: Path, nothing: NDArray[Any], arena: int) -> NDArray[np.int64]:
    """Runs a file on zeros in an arena of so many bytes; to be called apart.

    Returns:
        Bytes of the arena's head and tail, `(2,)`.

    Raises:
        BadInput: If it does not run; the interpreter's words.
    """
    from tflite_micro.python.tflite_micro import runtime

    with TemporaryFile() as said:
        before = os.dup(2)
        os.dup2(said.fileno(), 2)  # the interpreter says why, and what it has allocated, there alone
        try:
            interpreter = runtime.Interpreter.from_bytes(tflite.read_bytes(), arena_size=arena)
            details = interpreter.get_input_details(0)
            interpreter.set_input(np.zeros(details["shape"], details["dtype"]), 0)
            interpreter.invoke()
            interpreter.print_allocations()
            failed = ""
        except Exception as error:  # of the interpreter and of the flatbuffer's reader
            failed = str(error)
        finally:
            os.dup2(before, 2)
            os.close(before)
        said.seek(0)
        words = said.read().decode(errors="replace")
    if failed:
        lines = [_SOURCE.sub("", line).strip().rstrip(".") for line in words.splitlines() if line.strip()]
        raise BadInput("; ".join(lines[:2]) or failed)
    sizes = [re.search(rf"allocation {part} (\d+)", words) for part in ("head", "tail")]
    return np.array([int(size[1]) for size in sizes if size], np.int64)
