"""A stage that takes a fixed time and metrics that cost nothing: trials of nothing but their overhead."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lightexp.core.config import NonNegative
from lightexp.core.protocols import TFLITE, Artifact, Context, Measurement, MeasurementContext, Metric, Range, Stage

SETTINGS = ("a", "b", "c", "d", "e", "f")
_METRICS = struct.Struct("<dd")


def compute_metrics(values: Mapping[str, float]) -> tuple[float, float]:
    """Return an error and a cost of a trial's settings, with a trade-off (ZDT1, Zitzler et al. 2000)."""
    cost = 0.1 + float(values["a"])
    slack = 1 + sum(float(values[name]) for name in SETTINGS[1:])
    return slack * (2 - math.sqrt(cost / slack)), cost


@dataclass(frozen=True)
class Constant(Stage):
    """Sleeps, and appends an error and a cost to the file."""

    version = 1
    accepts = ("tflite",)
    produces = "tflite"
    needs_tensorflow = False
    search: ClassVar[Mapping[str, Range]] = {name: Range("range(0,1,0.02)") for name in SETTINGS}
    a: NonNegative = 0.5
    b: NonNegative = 0.5
    c: NonNegative = 0.5
    d: NonNegative = 0.5
    e: NonNegative = 0.5
    f: NonNegative = 0.5
    seconds: NonNegative = 0.0

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """See `Stage.apply`."""
        assert parent is not None
        time.sleep(self.seconds)
        metrics = compute_metrics({name: getattr(self, name) for name in SETTINGS})
        (context.out / TFLITE).write_bytes(parent.tflite.read_bytes() + _METRICS.pack(*metrics))
        return {}


@dataclass(frozen=True)
class ConstantMetrics(Measurement):
    """Reads the error and the cost from the file."""

    version = 1
    gives: ClassVar[Mapping[str, Literal["max", "min"] | None]] = {"constant/error": "min", "constant/cost": "min"}

    def measure(self, context: MeasurementContext) -> list[Metric]:
        """See `Measurement.measure`."""
        is_control = context.tflite == context.control
        error, cost = (3.0, 1.0) if is_control else _METRICS.unpack(context.tflite.read_bytes()[-_METRICS.size :])
        return [Metric("constant/error", error, "", "min"), Metric("constant/cost", cost, "", "min")]
