"""Measure the latency of the shipped file on this machine."""

from __future__ import annotations

import numpy as np

from lightexp.core.config import Count, Index, settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric
from lightexp.execution.locks import host_lock


@settings_dataclass
class Latency(Measurement):
    """Median and 95th percentile of the time for the first validation example, by LiteRT on one thread.

    Only one process of the host measures at a time. A slow file is timed for about a second, over at least 20 runs.

    Attributes:
        warmup: Runs before the first timed one.
        runs: Timed runs.
    """

    is_timing = True
    gives = {"latency/p50_us": "min", "latency/p95_us": "min"}
    warmup: Index = 20
    runs: Count = 200

    def measure(self, context: MeasurementContext) -> list[Metric]:
        """Measure `latency/p50_us` and `latency/p95_us`."""
        from lightexp.backend.litert import time_single_example

        example = context.data.inputs(context.data.val.x[:1])[0]
        with host_lock():
            times = time_single_example(context.tflite, example, self.warmup, self.runs, foreign=context.foreign)
        p50, p95 = np.percentile(times, [50, 95])
        return [
            Metric("latency/p50_us", float(p50), "µs", "min", version=self.version),
            Metric("latency/p95_us", float(p95), "µs", "min", version=self.version),
        ]
