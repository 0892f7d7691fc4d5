"""Data of a report: rows with their metrics' statistics, and what the outputs show around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lightexp.core.columns import MISSING, MetricColumn, find_column
from lightexp.core.latency_quality import MARK
from lightexp.core.primary_metric import PrimaryMetric
from lightexp.report.runs import Run
from lightexp.report.statistics import Difference, Summary
from lightexp.report.table_spec import TableSpec

_STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
_KIND_LABELS = {"control": "control", "external": "published", "refused": "refused"}


@dataclass(frozen=True)
class MetricStatistics:
    """Statistics of one metric of one row.

    Attributes:
        summary: Over the row's seeds; None where nothing was measured.
        difference: Difference to the control; None where there is none.
        rank: 1 for the column's best value, 2 for its second, otherwise 0.
        doubtful: Whether it is a latency that cannot be trusted; see `lightexp.core.latency_quality`.
    """

    summary: Summary | None = None
    difference: Difference | None = None
    rank: int = 0
    doubtful: bool = False

    @property
    def mean(self) -> float | None:
        """The mean over the seeds, or None where nothing was measured."""
        return self.summary.mean if self.summary else None

    @property
    def mark(self) -> str:
        """Stars for a significant difference, or a dagger for one within the margin; a double dagger of a doubt."""
        return self._test_mark + (MARK if self.doubtful else "")

    @property
    def _test_mark(self) -> str:
        difference = self.difference
        if difference is None:
            return ""
        if difference.within is not None:
            return "†" if difference.within else ""
        p = difference.adjusted
        return next((stars for limit, stars in _STARS if p is not None and p < limit), "")


@dataclass(frozen=True)
class ReportRow:
    """One row of a report.

    Attributes:
        name: Name of the row.
        kind: `control`, `row`, `external` (published elsewhere) or `refused` (cannot run).
        seeds: Seeds of its runs.
        metrics: Statistics by metric.
        note: Source of a published row, reason of a refused one, or what became of waived invariants.
        front: Share of the seeds for which the row is on the front of size and error; None where that is not known.
        doubts: Why its latency cannot be trusted.
    """

    name: str
    kind: Literal["control", "row", "external", "refused"]
    seeds: tuple[int, ...] = ()
    metrics: Mapping[str, MetricStatistics] = field(default_factory=dict)
    note: str = ""
    front: float | None = None
    doubts: tuple[str, ...] = ()

    def metric(self, name: str) -> MetricStatistics:
        """Return the statistics of a metric, empty ones where it was not measured."""
        return self.metrics.get(name, MetricStatistics())

    @property
    def label(self) -> str:
        """The name, with the row's kind where the name does not hold it."""
        kind = _KIND_LABELS.get(self.kind, "")
        return self.name if kind in self.name else f"{self.name} ({kind})"


@dataclass(frozen=True)
class Report:
    """A table with everything that its outputs show.

    Attributes:
        spec: Title, columns and margin; `spec.columns` are the columns that the table has.
        rows: The control, then the rows in their order, then refused ones, then published ones.
        runs: All runs of the rows.
        primary: The metric that the rows are judged by.
        quality: Its name with the split that is shown, such as `accuracy/test`.
        size: Metric of the size axis.
        hypervolume: Mean over the seeds and the ends of its 95% interval; None where it cannot be computed.
        questions: What a reviewer would ask, one line each.
        commands: Commands that make the report again.
        history: Hypervolume of a study after each trial.
    """

    spec: TableSpec
    rows: tuple[ReportRow, ...]
    runs: tuple[Run, ...]
    primary: PrimaryMetric
    quality: str
    size: str
    hypervolume: tuple[float, float, float] | None = None
    questions: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    history: tuple[float, ...] = ()

    def heading(self, name: str) -> str:
        """Return the heading of a metric's column, or its name where no table has it."""
        return next((column.heading for column in self.spec.columns if column.name == name), find_column(name).heading)


def is_ratio(name: str) -> bool:
    """Whether a metric is a quotient, whose means are geometric."""
    return name.endswith("ratio")


def format_summary(column: MetricColumn, summary: Summary | None) -> tuple[str, str]:
    """Return the mean and its spread as text.

    Args:
        column: Column of the metric.
        summary: Statistics over the seeds; None where nothing was measured.

    Returns:
        The mean, such as `97.22%`, and the spread, such as `± 0.20`; without a spread that rounds to nothing.
    """
    if summary is None:
        return MISSING, ""
    mean = column.format(summary.mean)
    if is_ratio(column.name):
        return mean, f"×/÷ {summary.std:.2f}" if summary.std and summary.std > 1.005 else ""
    if not summary.std or column.format(summary.std) == column.format(0.0):
        return mean, ""
    return mean, f"± {column.format(summary.std).rstrip('%x')}"
