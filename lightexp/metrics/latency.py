"""Measure the latency of the shipped file on this machine, and how far it can be trusted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import Count, Index, Positive, settings_dataclass
from lightexp.core.latency_quality import MAX_SPREAD
from lightexp.core.protocols import Measurement, MeasurementContext, Metric, Note
from lightexp.execution.locks import host_lock

LOADAVG = Path("/proc/loadavg")


@settings_dataclass
class Latency(Measurement):
    """Median and 95th percentile of the time for the first validation example, by LiteRT on one thread.

    Only one process of the host measures at a time. Batches of runs are repeated until the medians of five in a row
    differ by at most 3%, or the time is over; then the latency is noisy, and a note says so.

    `latency/spread` is the difference between the highest and the lowest of the five medians, as a share.
    `latency/load` is the host's load average of the last minute, and `latency/runnable` the number of threads ready to
    run just before or after, each divided by the number of processors; above 1 both, the host was busy.

    Attributes:
        warmup: Runs before the first timed one, at least one.
        runs: Timed runs of five batches; see `lightexp.backend.litert.time_single_example`.
        seconds: Time after which no further batch begins.
    """

    version: ClassVar[int] = 2  # 1 timed one batch
    is_timing = True
    gives = {
        "latency/p50_us": "min",
        "latency/p95_us": "min",
        "latency/spread": "min",
        "latency/load": None,
        "latency/runnable": None,
    }
    warmup: Index = 20
    runs: Count = 200
    seconds: Positive = 2.0

    def measure(self, context: MeasurementContext) -> list[Metric | Note]:
        """Measure `latency/*`."""
        example = context.data.inputs(context.data.val.x[:1])[0]
        return self._time(context.tflite, example, context.foreign)

    def time_zeros(self, tflite: Path) -> list[Metric | Note]:
        """Measure `latency/*` of any file, in the sandbox process, on an input of zeros.

        Raises:
            BadInput: If LiteRT cannot run the file.
        """
        from lightexp.backend.flatbuffer import read_graph

        graph = read_graph(tflite)
        shape = graph.tensors[graph.inputs[0]].shape[1:] if graph.inputs else ()
        return self._time(tflite, np.zeros(shape, np.float32), foreign=True)

    def _time(self, tflite: Path, example: NDArray[np.float32], foreign: bool) -> list[Metric | Note]:
        from lightexp.backend.litert import compute_spread, time_single_example

        with host_lock():
            before = _count_runnable()
            times = time_single_example(tflite, example, self.warmup, self.runs, self.seconds, foreign=foreign)
            runnable = max(before, _count_runnable())
            load = os.getloadavg()[0]
        p50, p95 = np.percentile(times, [50, 95])
        spread, processors = compute_spread(times), os.cpu_count() or 1
        measured: list[Metric | Note] = [
            Metric("latency/p50_us", p50, "µs", "min", version=self.version),
            Metric("latency/p95_us", p95, "µs", "min", version=self.version),
            Metric("latency/spread", spread, "", "min", version=self.version),
            Metric("latency/load", load / processors, version=self.version),
            Metric("latency/runnable", runnable / processors, version=self.version),
        ]
        if spread > MAX_SPREAD:
            text = (
                f"noisy: medians of batches still differ by {spread:.0%} after {self.seconds:g} s. End what else "
                "computes here, or set measure.latency.seconds higher"
            )
            measured.append(Note("latency/p50_us", text))
        return measured


def _count_runnable() -> int:
    """Return the number of the host's threads that run or are ready to; 0 where the system does not tell."""
    try:
        return int(LOADAVG.read_text(encoding="utf-8").split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return 0
