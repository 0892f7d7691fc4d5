"""Data of a report: rows with their metrics' statistics, and what the outputs show around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from lightexp.core.columns import MISSING, MetricColumn, find_column
from lightexp.core.latency_quality import MARK
from lightexp.core.primary_metric import PrimaryMetric
from lightexp.report.runs import Run
from lightexp.report.statistics import Difference, Summary
from lightexp.report.table_spec import TableSpec

_COSTS = ("size/", "model/", "compute/", "micro/", "npu/", "latency/", "time/", "fits/")
"""Metrics that say what a model costs, not what it is worth."""
_STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
_KIND_LABELS = {"control": "control", "infeasible": "infeasible", "external": "published", "refused": "refused"}


@dataclass(frozen=True, slots=True)
class MetricStatistics:
    """Statistics of one metric of one row.

    Attributes:
        summary: Over the row's seeds; None where nothing was measured.
        difference: Difference to the control; None where there is none.
        rank: 1 for the column's best value, 2 for its second, otherwise 0.
        is_doubtful: Whether it is a latency that cannot be trusted; see `lightexp.core.latency_quality`.
    """

    summary: Summary | None = None
    difference: Difference | None = None
    rank: int = 0
    is_doubtful: bool = False

    @property
    def mean(self) -> float | None:
        """The mean over the seeds, or None where nothing was measured."""
        return self.summary.mean if self.summary else None

    @property
    def doubt_mark(self) -> str:
        """A double dagger where the value cannot be trusted."""
        return MARK if self.is_doubtful else ""

    @property
    def test_mark(self) -> str:
        """Stars for a significant difference; a dagger where the row is shown to be no worse than the margin."""
        difference = self.difference
        if difference is None:
            return ""
        if difference.within is not None:
            return "†" if difference.within else ""
        p = difference.adjusted
        return next((stars for limit, stars in _STARS if p is not None and p < limit), "")


_NO_STATISTICS = MetricStatistics()


@dataclass(frozen=True)
class ReportRow:
    """One row of a report.

    Attributes:
        name: Name of the row.
        kind: `control`, `row`, `infeasible` (breaks a study's constraint, and is on no front), `external` (published
            elsewhere) or `refused` (cannot run).
        seeds: Seeds of its runs.
        metrics: Statistics by metric.
        note: Source of a published row, reason of a refused one, or what became of waived invariants.
        front: Share of the seeds for which the row is on the front of size and error; None where that is not known.
        doubts: Why its latency cannot be trusted.
        title: How tables and figures name it. Defaults to its name.
    """

    name: str
    kind: Literal["control", "row", "infeasible", "external", "refused"]
    seeds: tuple[int, ...] = ()
    metrics: Mapping[str, MetricStatistics] = field(default_factory=dict)
    note: str = ""
    front: float | None = None
    doubts: tuple[str, ...] = ()
    title: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.title or self.name)

    def metric(self, name: str) -> MetricStatistics:
        """Return the statistics of a metric, empty ones where it was not measured."""
        return self.metrics.get(name, _NO_STATISTICS)

    @property
    def label(self) -> str:
        """The title, with the row's kind where the title does not hold it."""
        kind = _KIND_LABELS.get(self.kind, "")
        return self.title if kind in self.title else f"{self.title} ({kind})"


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
        figures: SVGs by name that were drawn elsewhere, such as a study's own.
        paper_columns: Columns of `table.tex`: those of `spec` where they were chosen, otherwise a few of them.
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
    figures: Mapping[str, bytes] = field(default_factory=dict)
    paper_columns: tuple[MetricColumn, ...] = ()

    def title(self, name: str) -> str:
        """Return how tables and figures name a row."""
        return self._titles.get(name, name)

    @cached_property
    def _titles(self) -> dict[str, str]:
        return {row.name: row.title for row in reversed(self.rows)}  # of rows with one name the first counts

    def mark(self, column: MetricColumn, row: ReportRow) -> str:
        """Return a cell's mark, empty in columns whose differences `spec.stars` leaves unmarked."""
        statistics = row.metric(column.name)
        is_tested = self.spec.stars == "all" or not column.name.startswith(_COSTS)
        test_mark = statistics.test_mark if is_tested and self.spec.stars != "none" else ""
        return test_mark + statistics.doubt_mark

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
