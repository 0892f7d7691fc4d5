"""The page of a report: one HTML file that opens offline and loads nothing from outside."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from lightexp.core.columns import MISSING
from lightexp.core.formatting import escape_html, strip_controls
from lightexp.core.json_text import encode_json
from lightexp.report.board_table import build_board_table
from lightexp.report.csv_files import list_varying_settings
from lightexp.report.data import Report, ReportRow, format_summary, is_ratio
from lightexp.report.documents import find_change_place, format_change_heading, format_difference, list_legend
from lightexp.report.plots import Plot
from lightexp.report.runs import Run

_CAPTIONS = {
    "front": "Size against the task's metric: means over the seeds, standard deviations, and the front.",
    "ratio": "How many times smaller, and what it costs: paired differences with 95% intervals.",
    "waterfall": "What each stage did to the file's bytes and to the task's metric.",
    "curves": "Training, stage after stage: means over the seeds.",
    "layers": "What is left of each layer.",
    "sensitivity": "The task's metric when one layer alone is compressed.",
    "hypervolume": "Hypervolume of the front over the trials.",
    "study_front": "All trials of the study on its objectives, and its front.",
    "importance": "Which settings the objectives depend on.",
    "slices": "The objectives over the values of each setting.",
    "parallel": "Settings and objectives of each trial, as parallel coordinates.",
}


def render_page(report: Report, plots: Mapping[str, Plot]) -> str:
    """Return the report as one HTML file.

    Names stay text whatever they hold: data are JSON without angle brackets, which the page's script inserts as text.

    Args:
        report: The report.
        plots: The plots by name, shown as images, in which no script runs.
    """
    template = files("lightexp.report") / "template"
    parts = {kind: (template / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")}
    values = {
        "policy": _build_policy(parts["css"], parts["js"]),
        "title": escape_html(report.spec.title),
        "style": parts["css"],
        "script": parts["js"],
        "figures": "".join(_render_figure(name, plot) for name, plot in plots.items()),
        "data": _encode_json(_build_data(report)),
    }
    page, *pieces = parts["html"].split("{{")
    for piece in pieces:
        name, _, text = piece.partition("}}")
        page += values[name] + text
    return page


def _build_policy(style: str, script: str) -> str:
    """Return the content security policy, which allows only the page's own style and script."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _render_figure(name: str, plot: Plot) -> str:
    source = f"data:image/svg+xml;base64,{base64.b64encode(plot.files['.svg']).decode()}"
    caption = escape_html(_CAPTIONS.get(name, name))
    files = escape_html(", ".join(name + ending for ending in plot.files))
    description = f"<figcaption>{caption} {escape_html(plot.note)} ({files})</figcaption>"
    return f'<figure><img alt="{caption}" src="{source}">{description}</figure>'


def _encode_json(value: Any) -> str:
    """Return JSON for a script element; no name within it can end the element."""
    text = encode_json(_clean_json(value), ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _clean_json(value: Any) -> Any:
    """Return the value with texts without control characters."""
    if isinstance(value, Mapping):
        return {strip_controls(str(key)): _clean_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_json(item) for item in value]
    if isinstance(value, str):
        return strip_controls(value)
    return value


def _build_data(report: Report) -> dict[str, Any]:
    """Return what the page's script reads."""
    spec = report.spec
    varying = list_varying_settings(report.runs)
    config_indices: dict[int, int] = {}  # equal settings are one object
    configs: list[dict[str, str]] = []
    for run in report.runs:
        if id(run.settings) not in config_indices:
            config_indices[id(run.settings)] = len(configs)
            configs.append({name: run.settings[name] for name in varying if name in run.settings})
    return {
        "title": spec.title,
        "claim": spec.claim,
        "reference": spec.reference,
        "cost": spec.cost,
        "quality": report.quality,
        "size": report.size,
        "change": format_change_heading(report),
        "place": find_change_place(report),
        "share": report.primary.is_share,
        "better": report.primary.direction,
        "axes": [report.heading(report.size), report.heading(report.quality)],
        "columns": [{"name": c.name, "heading": c.heading, "direction": c.direction} for c in spec.columns],
        "cards": _build_cards(report),
        "boards": build_board_table(report),
        "questions": report.questions,
        "legend": list_legend(report),
        "commands": report.commands,
        "rows": [_build_row(report, row) for row in report.rows],
        "runs": [_build_run(report, run, config_indices[id(run.settings)]) for run in report.runs],
        "configs": configs,
        "environment": _build_environment(report.runs),
    }


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


def _build_row(report: Report, row: ReportRow) -> dict[str, Any]:
    quality, size = row.metric(report.quality), row.metric(report.size)
    return {
        "name": row.name,
        "title": row.title,
        "label": row.label,
        "kind": row.kind,
        "n": len(row.seeds),
        "note": row.note,
        "front": row.front,
        "cells": [_build_cell(report, index, row) for index in range(len(report.spec.columns))],
        "change": quality.difference.mean if quality.difference else None,
        "changed": format_difference(quality.difference, report.primary) if quality.difference else "",
        "x": size.mean,
        "y": quality.mean,
        "spread": quality.summary.std if quality.summary else None,
    }


def _build_cell(report: Report, index: int, row: ReportRow) -> dict[str, Any] | None:
    column = report.spec.columns[index]
    statistics = row.metric(column.name)
    if statistics.summary is None:
        return None
    return {
        **asdict(statistics.summary),
        "ratio": is_ratio(column.name),
        "text": " ".join(format_summary(column, statistics.summary)).rstrip(),
        "rank": statistics.rank,
        "mark": report.mark(column, row),
        "difference": asdict(statistics.difference) if statistics.difference else None,
    }


def _build_run(report: Report, run: Run, config: int) -> dict[str, Any]:
    columns = report.spec.columns
    return {
        "id": run.id,
        "row": run.row,
        "seed": run.seed,
        "values": [run.metrics.get(column.name) for column in columns],
        "texts": [column.format(run.metrics.get(column.name)) for column in columns],
        "config": config,
        "command": run.command,
        "host": run.host,
        "x": run.metrics.get(report.size),
        "y": run.metrics.get(report.quality),
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
