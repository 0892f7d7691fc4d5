"""A stage that pads a .tflite, or fails, and a measurement of what it made."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from lightexp.core.config import Fraction, NonNegative
from lightexp.core.protocols import TFLITE, Artifact, Context, Measurement, MeasurementContext, Metric, Range, Stage

BYTES = 10_000
"""Of padding at level 1."""
GATE_VARIABLE = "FAULTY_GATE"
"""Environment variable: a file that ends the waiting of all stages once it exists."""


@dataclass(frozen=True)
class Faulty(Stage):
    """Pads the file by a share `level` of `BYTES`, after `seconds` at most; or does what `mode` says."""

    accepts = ("tflite",)
    produces = "tflite"
    needs_tensorflow = False
    search: ClassVar[Mapping[str, Range]] = {"level": Range("interval(0.1, 1)", strongest=0.1)}
    level: Fraction = 1.0
    seconds: NonNegative = 0.0
    mode: Literal["fine", "raise", "memory", "void", "hang", "die"] = "fine"

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        assert parent is not None
        self._wait()
        if self.mode == "raise":
            raise ValueError("it broke")
        if self.mode == "memory":
            np.empty(1 << 58)
        if self.mode == "hang":
            time.sleep(1_000)
        if self.mode == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        padding = bytes(1 if self.mode == "void" else round(self.level * BYTES))
        (context.out / TFLITE).write_bytes(parent.tflite.read_bytes() + padding)
        return {}

    def _wait(self) -> None:
        gate = os.environ.get(GATE_VARIABLE)
        if gate is None:
            time.sleep(self.seconds)
            return
        end = time.monotonic() + self.seconds
        while time.monotonic() < end and not os.path.exists(gate):
            time.sleep(0.1)


@dataclass(frozen=True)
class Padding(Measurement):
    """An error that falls as the padding grows, so that there is a front; not a number for a single byte."""

    gives: ClassVar[Mapping[str, Literal["max", "min"] | None]] = {"faulty/error": "min", "faulty/level": None}

    def measure(self, subject: MeasurementContext) -> list[Metric]:
        padding = subject.tflite.stat().st_size - subject.control.stat().st_size
        level = padding / BYTES
        error = float("nan") if padding == 1 else 2 - level
        return [Metric("faulty/error", error, "", "min"), Metric("faulty/level", level)]
