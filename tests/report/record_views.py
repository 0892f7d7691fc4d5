"""A record with something of everything, and everything that commands do with a record of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightexp.core.record import RECORD_FILE, Record
from lightexp.core.records import build_frame
from lightexp.report import csv_files, documents, heatmap, html, latex, review
from lightexp.report.runs import iterate_records, name_rows
from lightexp.report.summary import build_summary
from lightexp.report.table_spec import TableSpec
from tests.synthetic import synthesize_record

SENSITIVITY = {
    "accuracy": 0.9,
    "chance": 0.1,
    "examples": 10,
    "layers": {"conv": {"names": ["conv"], "weights": 9, "levels": {"sparsity": {"0.5": 0.8}}}},
}


def make_tree(folder: Path) -> Any:
    """Return the JSON of a record that has something of everything."""
    record = synthesize_record(number=1, stages=("train", "prune"))
    record.reason, record.waived, record.mlflow = "a reason", {"sparsity": "prune: kept"}, {"missing": "none"}
    record.stages[1].facts |= {"sizes": {"conv": 9}, "zeros": {"conv": 3}, "note": "n", "sensitivity": SENSITIVITY}
    record.stages[1].notes = {"micro/runs": "why"}
    record.write(folder)
    return json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))


def show(record: Record, folder: Path) -> None:
    """Do everything that commands do with a record of others."""
    record.table()
    record._repr_html_()
    build_frame([record])
    heatmap.find_last_table(record)
    runs = name_rows(iterate_records([folder], []))
    if not runs:  # not done, or nothing was measured
        return
    report = build_summary(runs, TableSpec("a table"))
    documents.render_markdown_document(report)
    latex.render_latex_document(report)
    csv_files.render_statistics_csv(report)
    csv_files.render_runs_csv(report.runs)
    html.render_page(report, {})
    list(review.list_questions(report))
