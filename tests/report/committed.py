"""Reports from the committed statistics of an ablation, whose records are not in the repository."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any, Literal

import yaml

from lightexp.core.columns import find_column
from lightexp.core.primary_metric import PrimaryMetric
from lightexp.report.data import MetricStatistics, Report, ReportRow
from lightexp.report.statistics import Difference, Summary
from lightexp.report.table_spec import Presentation

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
KINDS: dict[str, Literal["control", "row", "external", "refused"]] = {
    kind: kind for kind in ("control", "row", "external", "refused")
}


def read_number(text: str) -> float | None:
    """Return a number of a CSV file, None for an empty cell."""
    return float(text) if text else None


def read_statistics(line: dict[str, str]) -> MetricStatistics:
    """Return the statistics that a line of `table.csv` holds."""
    mean, n = read_number(line["mean"]), int(line["n"])
    summary = None if mean is None else Summary(n, mean, read_number(line["std"]))
    change = read_number(line["difference"])
    if change is None:
        return MetricStatistics(summary)
    ends = read_number(line["low"]), read_number(line["high"])
    within = {"True": True, "False": False}.get(line["within_margin"])
    p, adjusted = read_number(line["p"]), read_number(line["p_holm"])
    return MetricStatistics(summary, Difference(n, change, *ends, p, adjusted, within))


def read_committed_report(name: str, latex: dict[str, Any]) -> Report:
    """Return the report of a committed ablation as `lightexp report` makes it, but for ranks, runs and plots.

    Args:
        name: Stem of the ablation's file.
        latex: The page that its table is made for.
    """
    content = yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text(encoding="utf-8"))
    labels = {
        row: f"as long as {node['equal_budget']}" for row, node in content["rows"].items() if "equal_budget" in node
    }
    shown = Presentation(columns=content["columns"], margin=content.get("margin"), labels=labels, latex=latex)
    spec = shown.fill_spec(title=name, claim=content["claim"])
    rows: dict[str, dict[str, Any]] = {}
    with (EXPERIMENTS / "results" / name / "table.csv").open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            row = rows.setdefault(line["row"], {"kind": KINDS[line["kind"]], "note": line["note"], "metrics": {}})
            if line["measurement"]:
                row["metrics"][line["measurement"]] = read_statistics(line)
    markdown = (EXPERIMENTS / "results" / name / "table.md").read_text(encoding="utf-8").replace("\\", "")
    change = re.search(r"Δ (\w+)( \(pp\))?", markdown)
    assert change is not None
    quality = find_column(f"{change[1]}/test")
    return Report(
        spec=spec,
        rows=tuple(
            ReportRow(row, seeds=tuple(content["seeds"]), title=spec.labels.get(row, row), **values)
            for row, values in rows.items()
        ),
        runs=(),
        primary=PrimaryMetric(change[1], quality.direction or "max", is_share=bool(change[2])),
        quality=quality.name,
        size="size/file_bytes",
        paper_columns=spec.columns,
    )
