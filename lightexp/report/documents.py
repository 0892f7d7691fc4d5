"""The table of a report, its legend, and `table.md` with notes and commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from lightexp.core import latency_quality
from lightexp.core.columns import MISSING, MetricColumn, list_footnotes
from lightexp.core.formatting import escape_markdown, strip_controls
from lightexp.core.primary_metric import PrimaryMetric
from lightexp.report.data import Report, ReportRow, format_summary, is_ratio
from lightexp.report.statistics import Difference
from lightexp.report.table import Table, TableCell, TableColumn, TableRow, render_markdown

_STARS = "* p < 0.05, ** p < 0.01, *** p < 0.001: paired by seed against the control, Holm-corrected over the rows"
_DAGGER = "† no worse than the control by {margin} or more (one-sided paired test, Holm-corrected, p < 0.05)"
_EMPHASES: dict[int, Literal["best", "second"]] = {1: "best", 2: "second"}

MAX_ROWS = 1_000
"""Number of rows that `table.md` has at most."""
_DIFFERENCE_FORMATS = {"max": "{:+.4f}", "min": "{:+.4g}"}
"""By direction, of a metric that is no share: those to maximise are at most 1."""


def build_table(report: Report, label: Callable[[ReportRow], str], max_rows: int = MAX_ROWS) -> Table:
    """Return the table of a report: a row for each of its rows, a column for each metric, and the change of quality.

    The change follows the primary metric, or is the last column where the table does not show that metric.

    Args:
        report: The report.
        label: Names a row in the first column.
        max_rows: Number of rows that the table has at most; see `limit_rows`. Defaults to that of `table.md`.
    """
    legend = list_legend(report)
    report, left_out = limit_rows(report, max_rows)
    metrics = [TableColumn(column.heading, column.direction) for column in report.spec.columns]
    place = find_change_place(report)
    rows = []
    for row in report.rows:
        name = TableCell(label(row))
        if row.kind == "refused":
            rows.append(TableRow((name, TableCell("refused")), row.kind))
            continue
        cells = [_build_cell(report, column, row) for column in report.spec.columns]
        cells.insert(place, TableCell(format_difference(row.metric(report.quality).difference, report.primary)))
        rows.append(TableRow((name, *cells), row.kind))
    metrics.insert(place, TableColumn(format_change_heading(report)))
    columns = (TableColumn("Row", align="left"), *metrics)
    return Table(columns, tuple(rows), report.spec.title, (*legend, *left_out))


def limit_rows(report: Report, max_rows: int) -> tuple[Report, list[str]]:
    """Return a report with no more rows than a reader can use, and a sentence on what it leaves out or none.

    The control, published and refused rows come first, then the rows that are on the front for any seed, then the
    others in their order.

    Args:
        report: The report.
        max_rows: Number of rows that are left at most.
    """
    count = len(report.rows)
    if count <= max_rows:
        return report, []
    order = sorted(range(count), key=lambda i: (report.rows[i].kind in ("row", "infeasible"), not report.rows[i].front))
    rows = tuple(report.rows[index] for index in sorted(order[:max_rows]))
    sentence = f"{max_rows:,} of {count:,} rows, those on the front before others; table.csv has all."
    return replace(report, rows=rows), [sentence]


def find_change_place(report: Report) -> int:
    """Return how many columns of metrics precede that of the differences to the control."""
    names = [column.name for column in report.spec.columns]
    return names.index(report.quality) + 1 if report.quality in names else len(names)


def _build_cell(report: Report, column: MetricColumn, row: ReportRow) -> TableCell:
    statistics = row.metric(column.name)
    mean, spread = format_summary(column, statistics.summary)
    return TableCell(mean, spread, report.mark(column, row), _EMPHASES.get(statistics.rank))


def format_change_heading(report: Report) -> str:
    """Return the heading of the column of differences to the control."""
    unit = f" ({report.primary.difference_unit})" if report.primary.difference_unit else ""
    return f"Δ {report.primary.name}{unit}"


def format_difference(difference: Difference | None, primary: PrimaryMetric) -> str:
    """Return a metric's difference to the control in points or in its unit, with its interval."""
    if difference is None:
        return MISSING
    number = "{:+.2f}" if primary.is_share else _DIFFERENCE_FORMATS[primary.direction]
    text = number.format(difference.mean * primary.factor)
    if difference.low is None or difference.high is None:
        return text
    low, high = (number.format(end * primary.factor) for end in (difference.low, difference.high))
    return f"{text} [{low}, {high}]"


def list_legend(report: Report) -> list[str]:
    """Return what the table's numbers and marks mean, one line each."""
    counts = {len(row.seeds) for row in report.rows if row.seeds}
    count = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    seeds = "seed" if count == "1" else "seeds"
    has_ratios = any(is_ratio(column.name) for column in report.spec.columns)
    means = "; ratios are geometric means (×/÷ their spread)" if has_ratios else ""
    legend = [
        f"Mean ± sample standard deviation over {count} {seeds}{means}.",
        f"Δ: difference to the control{describe_unit(report.primary)}, "
        "with the 95% t interval of the paired differences.",
        *list_mark_legend(report),
    ]
    if any(row.metric(column.name).is_doubtful for row in report.rows for column in report.spec.columns):
        legend.append(f"{latency_quality.LEGEND}.")
    if report.hypervolume is not None and not report.history:  # a study has its own
        mean, low, high = report.hypervolume
        interval = f", 95% interval [{low:.4g}, {high:.4g}] over the seeds" if low < high else ""
        legend.append(f"Hypervolume of size and error: {mean:.4g}{interval}.")
    return legend + list_footnotes(report.spec.columns)


def list_mark_legend(report: Report) -> list[str]:
    """Return a line on what the marks mean; none where no cell can have one."""
    if report.spec.stars == "none":
        return []
    margin, marks = report.spec.margin, _STARS
    if margin is not None:
        limit = f"{margin:g} {report.primary.difference_unit}".rstrip()
        marks = f"{_DAGGER.format(margin=limit)}; other columns: {_STARS}"
    unmarked = "" if report.spec.stars == "all" else "; sizes, computation and times are not marked"
    return [f"{marks}{unmarked}."]


def describe_unit(primary: PrimaryMetric) -> str:
    """Return in which unit differences of the metric are shown, such as ` in percentage points`."""
    if primary.is_share:
        return " in percentage points"
    return f" in {primary.unit}" if primary.unit else ""


def render_markdown_document(report: Report) -> str:
    """Return `table.md`: claim, table, legend, sources of published rows, questions and commands."""
    spec = report.spec
    lines = [f"# {escape_markdown(spec.title)}", ""]
    for prefix, text in (("", spec.claim), ("Reference: ", spec.reference), ("Cost: ", spec.cost)):
        if text:
            lines += [prefix + escape_markdown(text), ""]
    table = build_table(report, label=lambda row: row.title if row.kind == "refused" else row.label)
    lines += [render_markdown(table), "", *(f"{escape_markdown(note)}  " for note in table.notes)]
    noted = [row for row in limit_rows(report, MAX_ROWS)[0].rows if row.kind in ("external", "refused")]
    if noted:
        lines += ["", *(f"- {escape_markdown(row.label)}: {escape_markdown(row.note)}" for row in noted)]
    if report.questions:
        lines += ["", "What a reviewer would ask:", ""]
        lines += [f"- {escape_markdown(question)}" for question in report.questions]
    if report.commands:
        lines += ["", "Commands:", "", "```bash", *map(strip_controls, report.commands), "```"]
    return "\n".join(lines) + "\n"
