"""The page: one file that a reviewer opens offline, and that nothing from outside can reach."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from lightexp.report.runs import Run
from lightexp.report.summary import Cell, Report, Row, format_cell, is_ratio
from lightexp.report.tables import format_difference, list_legend, list_varying_settings

_CAPTIONS = {
    "front": "Size against accuracy: means over the seeds, standard deviations, and the front.",
    "ratio": "How many times smaller, and what it costs: paired differences with 95% intervals.",
    "waterfall": "What each stage did to the file's bytes and to its accuracy.",
    "curves": "Training, stage after stage: means over the seeds.",
    "layers": "What is left of each layer.",
    "sensitivity": "Accuracy when one layer alone is compressed.",
    "hypervolume": "Hypervolume of the front over the trials.",
}


def render_page(report: Report, figures: Mapping[str, bytes]) -> str:
    """The report as one HTML file.

    Whatever a name holds stays text: data are JSON without angle brackets, which the page's own script enters as text.

    Args:
        report: What to show.
        figures: SVGs by name; shown as images, in which no script runs.
    """
    template = files("lightexp.report") / "template"
    parts = {kind: (template / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")}
    hashes = {kind: base64.b64encode(hashlib.sha256(parts[kind].encode()).digest()).decode() for kind in ("css", "js")}
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes['css']}'; script-src 'sha256-{hashes['js']}'; "
    )
    values = {
        "policy": policy + "base-uri 'none'; form-action 'none'",
        "title": html.escape(report.show.title),
        "style": parts["css"],
        "script": parts["js"],
        "figures": "".join(_figure(name, svg) for name, svg in figures.items()),
        "data": _json(_data(report)),
    }
    first, *rest = parts["html"].split("{{")
    return first + "".join(values[name] + after for name, _, after in (part.partition("}}") for part in rest))


def _figure(name: str, svg: bytes) -> str:
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    caption = html.escape(_CAPTIONS.get(name, name))
    below = f"<figcaption>{caption} ({name}.svg, {name}.pdf)</figcaption>"
    return f'<figure><img alt="{caption}" src="{source}">{below}</figure>'


def _json(value: Any) -> str:
    """JSON that can stand in a script element: no name ends it."""
    words = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return words.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _data(report: Report) -> dict[str, Any]:
    show, columns = report.show, report.show.columns
    varied = list_varying_settings(report.runs)
    configs: dict[int, int] = {}
    kept: list[dict[str, str]] = []
    for run in report.runs:
        if id(run.settings) not in configs:
            configs[id(run.settings)] = len(kept)
            kept.append({name: run.settings[name] for name in varied if name in run.settings})
    return {
        "title": show.title,
        "claim": show.claim,
        "reference": show.reference,
        "cost": show.cost,
        "accuracy": report.accuracy,
        "size": report.size,
        "axes": [report.heading(report.size), report.heading(report.accuracy)],
        "columns": [{"name": c.name, "heading": c.heading, "direction": c.direction} for c in columns],
        "cards": _cards(report),
        "words": report.words,
        "legend": list_legend(report),
        "commands": report.commands,
        "lines": [_line(report, line) for line in report.lines],
        "runs": [_run(report, run, configs[id(run.settings)]) for run in report.runs],
        "configs": kept,
        "environment": _environment(report.runs),
    }


def _cards(report: Report) -> list[tuple[str, str]]:
    seeds = {run.seed for run in report.runs}
    rows = [line for line in report.lines if line.kind in ("row", "control")]
    found = [("rows", str(len(rows))), ("runs", f"{len(report.runs):,}"), ("seeds", str(len(seeds)))]
    found.append(("data", report.runs[0].data[0]))
    if report.hypervolume is not None:
        mean, low, high = report.hypervolume
        interval = f" [{low:.3f}, {high:.3f}]" if low < high else ""
        found.append(("hypervolume" + " (95% interval)" * bool(interval), f"{mean:.3f}{interval}"))
    if report.show.margin is not None:
        found.append(("margin (pp)", f"{report.show.margin:g}"))
    return found


def _line(report: Report, line: Row) -> dict[str, Any]:
    cells = [_cell(report, index, line.cells.get(c.name)) for index, c in enumerate(report.show.columns)]
    accuracy, size = line.cells.get(report.accuracy, Cell()), line.cells.get(report.size, Cell())
    return {
        "name": line.name,
        "label": line.label,
        "kind": line.kind,
        "n": len(line.seeds),
        "note": line.note,
        "front": line.front,
        "cells": cells,
        "change": accuracy.difference.mean if accuracy.difference else None,
        "changed": format_difference(accuracy.difference) if accuracy.difference else "",
        "x": size.summary.mean if size.summary else None,
        "y": accuracy.summary.mean if accuracy.summary else None,
        "spread": accuracy.summary.std if accuracy.summary else None,
    }


def _cell(report: Report, index: int, cell: Cell | None) -> dict[str, Any] | None:
    if cell is None or cell.summary is None:
        return None
    column = report.show.columns[index]
    difference = asdict(cell.difference) if cell.difference else None
    return {
        **asdict(cell.summary),
        "ratio": is_ratio(column.name),
        "text": format_cell(column, cell.summary),
        "place": cell.place,
        "mark": cell.mark,
        "difference": difference,
    }


def _run(report: Report, run: Run, config: int) -> dict[str, Any]:
    values = [run.metrics.get(column.name) for column in report.show.columns]
    return {
        "id": run.id,
        "row": run.row,
        "seed": run.seed,
        "values": values,
        "texts": [column.format(value) for column, value in zip(report.show.columns, values, strict=True)],
        "config": config,
        "command": run.command,
        "host": run.host,
        "x": run.metrics.get(report.size),
        "y": run.metrics.get(report.accuracy),
    }


def _environment(runs: Sequence[Run]) -> dict[str, Any]:
    """Each environment that runs took place in, and how many did."""
    counts = Counter(id(run.environment) for run in runs)
    distinct = {id(run.environment): run.environment for run in runs}
    heads = ["runs", *dict.fromkeys(name for one in distinct.values() for name in one)]
    rows = [[str(counts[mark]), *(_words(one.get(name)) for name in heads[1:])] for mark, one in distinct.items()]
    return {
        "heads": ["", *(row[0] + " runs" for row in rows)],
        "rows": [list(c) for c in zip(heads, *rows, strict=True)][1:],
    }


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(one)}" for name, one in value.items())
    return "–" if value is None else str(value)
