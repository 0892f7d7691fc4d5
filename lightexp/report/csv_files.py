"""Statistics and runs of a report as CSV (`table.csv` and `runs.csv`)."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Sequence

from lightexp.core.formatting import escape_csv
from lightexp.report.data import MetricStatistics, Report, ReportRow
from lightexp.report.runs import Run

_SUMMARY = ("n", "mean", "std", "iqm", "iqm_low", "iqm_high")
_DIFFERENCE = ("difference", "low", "high", "p", "p_holm", "within_margin")


def render_statistics_csv(report: Report) -> str:
    """Return all statistics, a line for each row and metric."""
    heads = ["row", "kind", "measurement", *_SUMMARY, *_DIFFERENCE, "front_share", "note"]
    lines = (
        _list_statistics(row, name, statistics)
        for row in report.rows
        for name, statistics in (row.metrics or {"": MetricStatistics()}).items()  # one line for a refused row's note
    )
    return render_csv(heads, lines)


def _list_statistics(row: ReportRow, name: str, statistics: MetricStatistics) -> list[object]:
    values: list[object] = [row.name, row.kind, name]
    summary, difference = statistics.summary, statistics.difference
    if summary:
        values += [summary.n, summary.mean, summary.std, summary.iqm, summary.low, summary.high]
    else:
        values += [0] + [None] * (len(_SUMMARY) - 1)
    if difference:
        values += [difference.mean, difference.low, difference.high]
        values += [difference.p, difference.adjusted, difference.within]
    else:
        values += [None] * len(_DIFFERENCE)
    return [*values, row.front, row.note]


def render_runs_csv(runs: Sequence[Run]) -> str:
    """Return every run with its metrics and the settings in which runs differ."""
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    settings = list_varying_settings(runs)
    heads = ["id", "row", "seed", "host", "command", *metrics, *settings]
    lines = (
        [
            *(run.id, run.row, run.seed, run.host, run.command),
            *(run.metrics.get(name) for name in metrics),
            *(run.settings.get(name) for name in settings),
        ]
        for run in runs
    )
    return render_csv(heads, lines)


def list_varying_settings(runs: Sequence[Run]) -> list[str]:
    """Return the names of the settings that not all runs share, in their order."""
    distinct = list({id(run.settings): run.settings for run in runs}.values())  # equal settings are one object
    names = dict.fromkeys(name for settings in distinct for name in settings)
    return [name for name in names if len({settings.get(name) for settings in distinct}) > 1]


def render_csv(heads: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Return a CSV file with a line of headings; see `lightexp.core.formatting.escape_csv`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows(
        # most cells are numbers, for which a call costs more than writing them
        [value if type(value) is float else escape_csv(value) for value in line]
        for line in itertools.chain([heads], lines)
    )
    return buffer.getvalue()
