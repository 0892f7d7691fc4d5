"""The columns of every table of runs: which metrics are shown, their headings, number formats and directions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lightexp.core.latency_quality import MARK, TIMES, list_doubts
from lightexp.core.primary_metric import PrimaryMetric
from lightexp.core.table import Direction, Table, TableCell, TableColumn, TableRow

MISSING = "–"
_MAX_CHARS = 24  # of a cell


@dataclass(frozen=True)
class MetricColumn:
    """A metric as tables show it.

    Attributes:
        name: Name of the metric, such as `size/file_bytes`.
        heading: Heading for people; names the unit where the cells do not.
        formatter: Formats a finite value as text.
        direction: Which way is better; None where neither is.

    Example:
        >>> column = MetricColumn("size/file_bytes", "File bytes", "{:,.0f}".format, "min")
        >>> column.format(12345), column.format(None), column.format(1e40)
        ('12,345', '–', '1e+40')
    """

    name: str
    heading: str
    formatter: Callable[[float], str]
    direction: Direction | None = None

    def format(self, value: float | None) -> str:
        """Return the value as text, or a dash where it was not measured or is not finite."""
        if value is None or not math.isfinite(value):
            return MISSING
        text = self.formatter(value)
        return text if len(text) <= _MAX_CHARS else f"{value:.4g}"  # a number that can only be wrong


def _format_count(value: float) -> str:
    return f"{value:,.0f}"


def _format_tenths(value: float) -> str:
    return f"{value:,.1f}"


def _format_factor(value: float) -> str:
    return f"{value:,.1f}x"


def _format_percent(value: float) -> str:
    return f"{value:.1%}"


def _format_significant(value: float) -> str:
    return f"{value:,.4g}"


def _format_decimals(value: float) -> str:
    return f"{value:.4f}"


def _format_fine_percent(value: float) -> str:
    return f"{value:.2%}"


COLUMNS: tuple[MetricColumn, ...] = (
    MetricColumn("accuracy/val", "Accuracy val", _format_fine_percent, "max"),
    MetricColumn("accuracy/test", "Accuracy test", _format_fine_percent, "max"),
    MetricColumn("auc/val", "AUC val", _format_decimals, "max"),
    MetricColumn("auc/test", "AUC test", _format_decimals, "max"),
    MetricColumn("partial_auc/test", "pAUC test", _format_decimals, "max"),
    MetricColumn("average_precision/val", "AP val", _format_decimals, "max"),
    MetricColumn("average_precision/test", "AP test", _format_decimals, "max"),
    MetricColumn("f1/test", "F1 test", _format_decimals, "max"),
    MetricColumn("subset_accuracy/test", "Subset accuracy test", _format_fine_percent, "max"),
    MetricColumn("rmse/val", "RMSE val", _format_significant, "min"),
    MetricColumn("rmse/test", "RMSE test", _format_significant, "min"),
    MetricColumn("mse/val", "MSE val", _format_significant, "min"),
    MetricColumn("mse/test", "MSE test", _format_significant, "min"),
    MetricColumn("mae/test", "MAE test", _format_significant, "min"),
    MetricColumn("r2/test", "R2 test", _format_decimals, "max"),
    MetricColumn("size/file_bytes", "File bytes", _format_count, "min"),
    MetricColumn("size/gzip_bytes", "Gzip bytes", _format_count, "min"),
    MetricColumn("size/ratio", "Ratio", _format_factor, "max"),
    MetricColumn("size/encoded_bytes", "Encoded bytes", _format_count, "min"),
    MetricColumn("size/encoded_ratio", "Encoded ratio", _format_factor, "max"),
    MetricColumn("model/sparsity", "Sparsity", _format_percent),
    MetricColumn("model/params", "Params", _format_count, "min"),
    MetricColumn("compute/macs", "MACs", _format_count, "min"),
    MetricColumn("micro/arena_bytes", "RAM bytes", _format_count, "min"),
    MetricColumn("latency/p50_us", "p50 µs", _format_tenths, "min"),
    MetricColumn("latency/p95_us", "p95 µs", _format_tenths, "min"),
)

PRIMARY_COLUMNS: tuple[MetricColumn, ...] = (
    MetricColumn("balanced_accuracy/val", "Balanced accuracy val", _format_fine_percent, "max"),
    MetricColumn("balanced_accuracy/test", "Balanced accuracy test", _format_fine_percent, "max"),
    MetricColumn("f1_macro/val", "Macro F1 val", _format_decimals, "max"),
    MetricColumn("f1_macro/test", "Macro F1 test", _format_decimals, "max"),
    MetricColumn("f1/val", "F1 val", _format_decimals, "max"),
    MetricColumn("mae/val", "MAE val", _format_significant, "min"),
    MetricColumn("r2/val", "R2 val", _format_decimals, "max"),
)
"""Columns that tables have where the metric is the primary one."""


_NPU_METRIC = re.compile(r"npu/(?P<target>[^/]+)/(?P<key>\w+)")
_NPU_COLUMNS: Mapping[str, tuple[str, Callable[[float], str], Direction]] = {
    "cycles": ("cycles", _format_count, "min"),
    "us": ("µs", _format_tenths, "min"),
    "sram_bytes": ("SRAM bytes", _format_count, "min"),
    "flash_bytes": ("flash bytes", _format_count, "min"),
    "weight_bytes": ("weight bytes", _format_count, "min"),
    "npu_ops_share": ("operators on the NPU", _format_percent, "max"),
}
_USUAL_NPU_COLUMNS = ("cycles", "flash_bytes")
_ESTIMATE = "(est.)"
ESTIMATE_NOTE = "(est.): estimated by Arm's compiler Vela, not measured on a chip."


def find_column(name: str) -> MetricColumn:
    """Return the usual column of a metric, that of an NPU or a phone, or one of four digits under the metric's name."""
    if (match := _NPU_METRIC.fullmatch(name)) and match["key"] in _NPU_COLUMNS:
        heading, formatter, direction = _NPU_COLUMNS[match["key"]]
        return MetricColumn(name, f"{match['target']} {heading} {_ESTIMATE}", formatter, direction)
    known = (column for column in (*COLUMNS, *PRIMARY_COLUMNS) if column.name == name)
    if is_phone_time(name):
        _, phone, configuration = name.split("/")
        heading = f"{phone.replace('_', ' ')} {configuration.removesuffix('_us')} µs"
        return MetricColumn(name, heading, _format_tenths, "min")
    return next(known, MetricColumn(name, name, "{:,.4g}".format))


def list_footnotes(columns: Iterable[MetricColumn]) -> list[str]:
    """Return what has to be said below a table with these columns: which numbers are estimates."""
    return [ESTIMATE_NOTE] if any(column.heading.endswith(_ESTIMATE) for column in columns) else []


def is_phone_time(name: str) -> bool:
    """Return whether a metric is a mean time on a phone, such as `phone/Pixel_6/cpu1_us`."""
    return name.startswith("phone/") and name.endswith("_us") and name.count("/") == 2


def select_columns(rows: Iterable[Iterable[str]], primary: str = "accuracy") -> list[MetricColumn]:
    """Return the columns of a table whose rows have these metrics; a column that no row has is left out.

    Args:
        rows: The names of each row's metrics.
        primary: Name of the primary metric without the split, which is shown also if it is not a usual column.
            Defaults to accuracy.
    """
    usual = {column.name for column in COLUMNS}
    added = [find_column(name) for name in (f"{primary}/val", f"{primary}/test") if name not in usual]
    names = dict.fromkeys(name for row in rows for name in row)
    estimates = [find_column(name) for name in names if _is_usual_npu_metric(name)]
    return [column for column in (*added, *COLUMNS, *estimates) if column.name in names]


def _is_usual_npu_metric(name: str) -> bool:
    match = _NPU_METRIC.fullmatch(name)
    return match is not None and match["key"] in _USUAL_NPU_COLUMNS


_ACCURACY = PrimaryMetric()


def build_metrics_table(
    heading: str,
    rows: Sequence[tuple[str, Mapping[str, float]]],
    caption: str = "",
    notes: Sequence[str] = (),
    primary: PrimaryMetric = _ACCURACY,
) -> Table:
    """Return a table with a row for each name and a column for each of the usual metrics that was measured.

    Args:
        heading: Heading of the column of names.
        rows: Names with their metrics.
        caption: Title of the table.
        notes: Lines below the table, before those on doubtful latencies.
        primary: The primary metric, which is shown also if it is not a usual column, with its unit. Defaults to
            accuracy.
    """
    columns = select_columns((metrics for _, metrics in rows), primary.name)
    headings = (TableColumn(_name_unit(column, primary), wrap=False) for column in columns)
    body = tuple(TableRow((TableCell(name), *build_metric_cells(columns, metrics))) for name, metrics in rows)
    footnotes = (*list_footnotes(columns), *list_doubtful_rows(rows))
    return Table((TableColumn(heading, align="left"), *headings), body, caption, (*notes, *footnotes))


def build_metric_cells(columns: Iterable[MetricColumn], metrics: Mapping[str, float]) -> list[TableCell]:
    """Return a row's cells of some columns, doubtful latencies marked; see `list_doubtful_rows`."""
    mark = MARK if list_doubts(metrics) else ""
    return [
        TableCell(column.format(metrics.get(column.name)), mark=mark if column.name in TIMES else "")
        for column in columns
    ]


def list_doubtful_rows(rows: Iterable[tuple[str, Mapping[str, float]]]) -> list[str]:
    """Return which rows' latencies are doubtful and why, a line for each reason.

    Args:
        rows: Names with their metrics.
    """
    doubtful: dict[str, list[str]] = {}
    for name, metrics in rows:
        if doubts := list_doubts(metrics):
            doubtful.setdefault(", ".join(doubts), []).append(name)
    return [f"{MARK} doubtful latency ({doubts}): {', '.join(names)}" for doubts, names in doubtful.items()]


def _name_unit(column: MetricColumn, primary: PrimaryMetric) -> str:
    """Return a column's heading, with the unit of the primary metric if the column shows that."""
    is_primary = column.name.startswith(f"{primary.name}/") and not primary.is_share
    return f"{column.heading} ({primary.unit})" if is_primary and primary.unit else column.heading
