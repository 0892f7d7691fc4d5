"""Choice of a table's columns and of the size axis where nobody has chosen them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lightexp.core.columns import MetricColumn, find_column, select_columns
from lightexp.core.primary_metric import PrimaryMetric
from lightexp.report.data import MetricStatistics

RATIO_OF = {"size/file_bytes": "size/ratio", "size/encoded_bytes": "size/encoded_ratio"}
"""The metric that holds how many times smaller a file is than the control's, by the metric of its size."""

_PAPER_COSTS = ("compute/macs", "latency/p50_us")


def choose_columns(
    measured: Mapping[str, None], primary: PrimaryMetric, first: Sequence[str]
) -> tuple[MetricColumn, ...]:
    """Return the columns of metrics that come first, as far as they were measured, then the usual ones."""
    usual = select_columns([measured], primary.name)
    return (
        *(find_column(n) for n in first if n in measured),
        *(column for column in usual if column.name not in first),
    )


def select_paper_columns(
    columns: Sequence[MetricColumn],
    quality: str,
    size: str,
    statistics: Mapping[str, Mapping[str, MetricStatistics]],
) -> tuple[MetricColumn, ...]:
    """Return the columns that a paper's table has where none were chosen: at most four of those measured.

    They are the primary metric, the bytes that most rows end in and their ratio, and the first of MACs and latency that
    differs between rows.

    Args:
        columns: All columns, in their order.
        quality: Name of the primary metric.
        size: Metric of the size axis.
        statistics: Statistics by metric and row.
    """
    encoded = statistics.get("size/encoded_bytes", {})
    if sum(row.mean is not None for row in encoded.values()) * 2 > len(encoded):
        size = "size/encoded_bytes"
    costs = [name for name in _PAPER_COSTS if name in statistics]
    varying = (name for name in costs if len({row.mean for row in statistics[name].values()} - {None}) > 1)
    names = {quality, size, RATIO_OF.get(size), next(varying, costs[0] if costs else None)}
    return tuple(column for column in columns if column.name in names)


def select_size_metric(columns: Sequence[MetricColumn]) -> str:
    """Return the first size in bytes or number of an NPU's cycles among the columns, or the file's size."""
    for column in columns:
        if re.fullmatch(r"size/\w+_bytes|npu/[^/]+/cycles", column.name):
            return column.name
    return "size/file_bytes"
