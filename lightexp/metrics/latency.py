"""How long the shipped file takes for one example on this machine."""

from __future__ import annotations

import numpy as np

from lightexp.core.config import Count, Index, settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric
from lightexp.execution.locks import host_lock


@settings_dataclass
class Latency(Measurement):
    """Median and 95th percentile of one example's time, by LiteRT on one thread, on the first validation example.

    One process of the host times at a time. A slow file is timed for about a second, over at least 20 runs.

    Attributes:
        warmup: Runs before the first that counts.
        runs: Runs that count.
    """

    gives = {"latency/p50_us": "min", "latency/p95_us": "min"}
    warmup: Index = 20
    runs: Count = 200

    def measure(self, subject: MeasurementContext) -> list[Metric]:
        """Measures `latency/p50_us` and `latency/p95_us`."""
        from lightexp.backend.litert import time_single_example

        example = subject.data.inputs(subject.data.val.x[:1])[0]
        with host_lock():
            taken = time_single_example(subject.tflite, example, self.warmup, self.runs, foreign=subject.foreign)
        p50, p95 = np.percentile(taken, [50, 95])
        return [
            Metric("latency/p50_us", float(p50), "µs", "min", version=self.version),
            Metric("latency/p95_us", float(p95), "µs", "min", version=self.version),
        ]
