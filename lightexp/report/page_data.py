"""Data of a report's page for its script: rows and runs column by column, so that many fit into one file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from lightexp.core.columns import MISSING, MetricColumn
from lightexp.report.board_table import build_board_table
from lightexp.report.csv_files import list_varying_settings
from lightexp.report.data import MetricStatistics, Report, format_summary
from lightexp.report.documents import find_change_place, format_change_heading, format_difference, list_legend
from lightexp.report.runs import Run
from lightexp.report.statistics import Difference, Summary

MAX_COMMANDS = 20_000
"""Number of runs up to which the page holds the command of each."""
_DIGITS = 9  # significant digits of a number; the page shows fewer


def build_page_data(report: Report) -> dict[str, Any]:
    """Return the data that the page's script reads, as JSON types."""
    spec = report.spec
    configs = list({id(run.settings): run.settings for run in report.runs}.values())  # equal settings are one object
    return {
        "title": spec.title,
        "claim": spec.claim,
        "reference": spec.reference,
        "cost": spec.cost,
        "quality": report.quality,
        "size": report.size,
        "change_heading": format_change_heading(report),
        "change_place": find_change_place(report),
        "is_share": report.primary.is_share,
        "direction": report.primary.direction,
        "axes": [report.heading(report.size), report.heading(report.quality)],
        "columns": [{"name": c.name, "heading": c.heading, "direction": c.direction} for c in spec.columns],
        "cards": _build_cards(report),
        "boards": build_board_table(report),
        "questions": report.questions,
        "legend": list_legend(report),
        "commands": report.commands,
        "rows": _build_rows(report),
        "runs": _build_runs(report, configs),
        "settings": {
            name: pack(settings.get(name) for settings in configs) for name in list_varying_settings(report.runs)
        },
        "environment": _build_environment(report.runs),
    }


def pack(values: Iterable[Any]) -> Any:
    """Return a column of numbers or texts in as few characters as JSON needs for it.

    Returns:
        `{"same": value}` if all values are equal, `{"values": texts, "indices": indices}` for texts of which many are
        equal, otherwise a list. Numbers have nine digits, and those that are not finite are None.

    Example:
        >>> pack([1.0, 1.0]), pack(["a", "b", "a", "b"]), pack([0.25, None])
        ({'same': 1}, {'values': ['a', 'b'], 'indices': [0, 1, 0, 1]}, [0.25, None])
    """
    column = [_round(value) if isinstance(value, float) else value for value in values]
    indices = {value: index for index, value in enumerate(dict.fromkeys(column))}
    if len(indices) == 1:
        return {"same": column[0]}
    if 2 * len(indices) <= len(column) and not any(isinstance(value, float) for value in indices):
        return {"values": list(indices), "indices": [indices[value] for value in column]}
    return column


def _round(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.{_DIGITS}g}")


def _build_cards(report: Report) -> list[tuple[str, str]]:
    """Return the numbers at the top of the page, as label and value."""
    seeds = {run.seed for run in report.runs}
    rows = [row for row in report.rows if row.kind in ("row", "control")]
    cards = [("rows", str(len(rows))), ("runs", f"{len(report.runs):,}"), ("seeds", str(len(seeds)))]
    cards.append(("data", report.runs[0].data[0]))
    if report.history:
        cards.append(("hypervolume of the study", f"{report.history[-1]:.3f}"))
    elif report.hypervolume is not None:
        mean, low, high = report.hypervolume
        if low < high:
            cards.append(("hypervolume (95% interval)", f"{mean:.3f} [{low:.3f}, {high:.3f}]"))
        else:
            cards.append(("hypervolume", f"{mean:.3f}"))
    if report.spec.margin is not None:
        cards.append((f"margin ({report.primary.difference_unit or report.primary.name})", f"{report.spec.margin:g}"))
    return cards


def _build_rows(report: Report) -> dict[str, Any]:
    rows = report.rows
    quality, size = ([row.metric(name) for row in rows] for name in (report.quality, report.size))
    differences = [metric.difference for metric in quality]
    return {
        "count": len(rows),
        "name": pack(row.name for row in rows),
        "title": pack(row.title if row.title != row.name else None for row in rows),
        "label": pack(row.label if row.label != row.title else None for row in rows),
        "kind": pack(row.kind for row in rows),
        "n": pack(len(row.seeds) for row in rows),
        "note": pack(row.note for row in rows),
        "front": pack(row.front for row in rows),
        "change": pack(difference.mean if difference else None for difference in differences),
        "change_text": pack(format_difference(d, report.primary) if d else "" for d in differences),
        "x": pack(metric.mean for metric in size),
        "y": pack(metric.mean for metric in quality),
        "spread": pack(metric.summary.std if metric.summary else None for metric in quality),
        "metrics": [_build_metric(report, column) for column in report.spec.columns],
    }


def _build_metric(report: Report, column: MetricColumn) -> dict[str, Any]:
    """Return the statistics of a metric, each as a column with a value for each row."""
    metrics: list[MetricStatistics] = [row.metric(column.name) for row in report.rows]
    texts = (
        " ".join(format_summary(column, metric.summary)).rstrip() if metric.summary else None for metric in metrics
    )
    return {
        **_list_fields(Summary, [metric.summary for metric in metrics]),
        "text": pack(texts),
        "rank": pack(metric.rank for metric in metrics),
        "mark": pack(report.mark(column, row) for row in report.rows),
        "difference": _list_fields(Difference, [metric.difference for metric in metrics]),
    }


def _list_fields(kind: type, values: Sequence[Summary | Difference | None]) -> dict[str, Any]:
    names = [field.name for field in fields(kind)]
    return {name: pack(None if value is None else getattr(value, name) for value in values) for name in names}


def _build_runs(report: Report, configs: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    runs, columns = report.runs, report.spec.columns
    row_numbers = {row.name: number for number, row in reversed(list(enumerate(report.rows)))}
    config_numbers = {id(settings): number for number, settings in enumerate(configs)}
    return {
        "count": len(runs),
        "id": pack(run.id for run in runs),
        "row": pack(row_numbers[run.row] for run in runs),
        "seed": pack(run.seed for run in runs),
        "values": [pack(run.metrics.get(column.name) for run in runs) for column in columns],
        "texts": [pack(column.format(run.metrics.get(column.name)) for run in runs) for column in columns],
        "config": pack(config_numbers[id(run.settings)] for run in runs),
        "command": pack(run.command for run in runs) if len(runs) <= MAX_COMMANDS else {"same": "in runs.csv"},
        "host": pack(run.host for run in runs),
        "x": pack(run.metrics.get(report.size) for run in runs),
        "y": pack(run.metrics.get(report.quality) for run in runs),
    }


def _build_environment(runs: Sequence[Run]) -> dict[str, Any]:
    """Return a table with a column for each environment in which runs took place."""
    counts = Counter(id(run.environment) for run in runs)
    environments = {id(run.environment): run.environment for run in runs}
    names = list(dict.fromkeys(name for environment in environments.values() for name in environment))
    return {
        "heads": ["", *(f"{counts[key]} runs" for key in environments)],
        "rows": [[name, *(_format_fact(env.get(name)) for env in environments.values())] for name in names],
    }


def _format_fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_format_fact(item)}" for name, item in value.items())
    return MISSING if value is None else str(value)
