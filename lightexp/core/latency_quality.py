"""Rules by which a measured latency is doubtful; the measurement, every table and the review share them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

MAX_SPREAD = 0.03
"""Largest difference between the medians of batches, as a share of their median, of a latency that is not noisy."""
MARK = "‡"
"""Mark of a doubtful latency in tables."""
TIMES = ("latency/p50_us", "latency/p95_us")
"""The metrics that tables mark."""
LEGEND = (
    f"{MARK} doubtful latency: the medians of batches differ by over {MAX_SPREAD:.0%}, p95 is above twice p50, the "
    "host was busy, or p50 differs between seeds by over half its mean (standard deviation)"
)
_MAX_TAIL = 2.0
_MAX_DEVIATION = 0.5


def is_latency(name: str) -> bool:
    """Return whether a metric is a latency on the host, or describes one."""
    return name.startswith("latency/")


def list_doubts(metrics: Mapping[str, float]) -> list[str]:
    """Return why a file's latency is doubtful; nothing where it is not, or was not measured.

    Args:
        metrics: Metrics of the file by name.

    Example:
        >>> list_doubts({"latency/p50_us": 2.0, "latency/p95_us": 5.0})
        ['p95 is above twice p50']
    """
    doubts = []
    if metrics.get("latency/spread", 0.0) > MAX_SPREAD:
        doubts.append("noisy")
    if metrics.get("latency/p95_us", 0.0) > _MAX_TAIL * metrics.get("latency/p50_us", float("inf")):
        doubts.append("p95 is above twice p50")
    # The load average still holds the run's own training, so that something must also compute at the moment.
    if min(metrics.get("latency/load", 0.0), metrics.get("latency/runnable", 0.0)) > 1:
        doubts.append("busy host")
    return doubts


def list_row_doubts(seeds: Sequence[Mapping[str, float]]) -> list[str]:
    """Return why the latency of a table's row is doubtful.

    Args:
        seeds: Metrics of the row's file, for each seed.
    """
    counts = Counter(doubt for metrics in seeds for doubt in list_doubts(metrics))
    doubts = [f"{doubt} with {count} of {len(seeds)} seeds" for doubt, count in counts.items()]
    medians = [metrics["latency/p50_us"] for metrics in seeds if "latency/p50_us" in metrics]
    if len(medians) > 1 and statistics.stdev(medians) > _MAX_DEVIATION * statistics.fmean(medians):
        doubts.append("p50 differs between seeds by over half its mean")
    return doubts
