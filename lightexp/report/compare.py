"""Comparison of two sets of runs: the settings in which they differ, and their metrics paired by seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightexp.core.columns import MISSING, select_columns
from lightexp.core.errors import BadInput
from lightexp.report.data import format_summary, is_ratio
from lightexp.report.runs import Run
from lightexp.report.statistics import Difference, compare_paired, summarize
from lightexp.report.table import Table

_MAX_LISTED_ROWS = 8


@dataclass(frozen=True)
class Comparison:
    """Comparison of two sets of runs.

    Attributes:
        settings: A row for each setting that differs: its name and both values.
        metrics: A row for each row in common and metric: both means, and the second's difference to the first with its
            95% t interval and p value.
    """

    settings: Table
    metrics: Table


def compare_runs(first: Sequence[Run], second: Sequence[Run], names: tuple[str, str]) -> Comparison:
    """Compare rows of the same name, or the only rows of both sets, paired by seed.

    Args:
        first: Runs of the first set, not empty.
        second: Runs of the second set, not empty.
        names: What the two sets are called in headings.

    Raises:
        BadInput: If the sets have no row in common.
    """
    first_rows, second_rows = _group_by_row(first), _group_by_row(second)
    settings: dict[tuple[str, str, str], None] = {}
    lines = []
    for first_name, second_name in _match_rows(first_rows, second_rows):
        before, after = first_rows[first_name], second_rows[second_name]
        settings |= dict.fromkeys(_list_changed_settings(before, after))
        label = first_name if first_name == second_name else f"{first_name} / {second_name}"
        lines += [[label, *line] for line in _compare_metrics(before, after)]
    return Comparison(
        Table.from_text(["Setting", *names], list(settings)),
        Table.from_text(["Row", "Measurement", *names, "Second - first [95%]", "p"], lines),
    )


def _group_by_row(runs: Sequence[Run]) -> dict[str, dict[int, Run]]:
    rows: defaultdict[str, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        rows[run.row][run.seed] = run
    return dict(rows)


def _match_rows(first: Mapping[str, object], second: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return the pairs of rows to compare."""
    common = [(name, name) for name in first if name in second]
    if common:
        return common
    if len(first) == len(second) == 1:
        return [(next(iter(first)), next(iter(second)))]
    names = [", ".join(list(rows)[:_MAX_LISTED_ROWS]) for rows in (first, second)]
    raise BadInput(f"--compare: the two have no row in common. The first has: {names[0]}. The second: {names[1]}.")


def _list_changed_settings(first: Mapping[int, Run], second: Mapping[int, Run]) -> list[tuple[str, str, str]]:
    """Return the settings that differ between the first run of each row, as name and both values."""
    before, after = next(iter(first.values())).settings, next(iter(second.values())).settings
    return [
        (name, before.get(name, MISSING), after.get(name, MISSING))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]


def _compare_metrics(first: Mapping[int, Run], second: Mapping[int, Run]) -> list[list[str]]:
    """Return a line for each metric that both rows have: heading, both means, difference and p value."""
    lines = []
    for column in select_columns(run.metrics for run in (*first.values(), *second.values())):
        ratio = is_ratio(column.name)
        before, after = (
            {seed: run.metrics[column.name] for seed, run in runs.items() if column.name in run.metrics}
            for runs in (first, second)
        )
        if before and after:
            means = [
                " ".join(format_summary(column, summarize(list(values.values()), ratio))).rstrip()
                for values in (before, after)
            ]
            lines.append([column.heading, *means, *_format_difference(compare_paired(after, before, ratio), ratio)])
    return lines


def _format_difference(difference: Difference | None, ratio: bool) -> tuple[str, str]:
    """Return a difference with its interval, and its p value, as text."""
    if difference is None:
        return "no seed in common", MISSING
    number = "x{:.4g}" if ratio else "{:+.4g}"
    text = number.format(difference.mean)
    if difference.low is not None and difference.high is not None:
        text += f" [{number.format(difference.low)}, {number.format(difference.high)}]"
    return text, MISSING if difference.p is None else f"{difference.p:.4f}"
