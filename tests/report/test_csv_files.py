"""CSV files of a report."""

from __future__ import annotations

import csv
import io

from lightexp.report import csv_files
from lightexp.report.data import Report
from tests.report.conftest import NASTY_NAME


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_statistics_csv_has_a_line_for_each_metric(report: Report) -> None:
    lines = read(csv_files.render_statistics_csv(report))
    line = next(line for line in lines if (line["row"], line["measurement"]) == ("both", "accuracy/test"))
    row = next(row for row in report.rows if row.name == "both")
    summary, difference = row.metric("accuracy/test").summary, row.metric("accuracy/test").difference
    assert summary is not None
    assert difference is not None
    assert (int(line["n"]), float(line["mean"])) == (summary.n, summary.mean)
    assert float(line["p_holm"]) == difference.adjusted


def test_statistics_csv_has_a_line_for_a_refused_row(report: Report) -> None:
    [line] = [line for line in read(csv_files.render_statistics_csv(report)) if line["kind"] == "refused"]
    assert (line["row"], line["measurement"], line["n"], line["mean"]) == ("order a>b", "", "0", "")
    assert line["note"] == "'b' cannot follow 'a'"


def test_runs_csv_has_every_run_and_varying_settings(report: Report) -> None:
    lines = read(csv_files.render_runs_csv(report.runs))
    assert len(lines) == len(report.runs)
    assert {line["pipeline.stages.prune.sparsity"] for line in lines} == {"", "0.8", "0.6", "0.95"}
    assert NASTY_NAME in {line["row"] for line in lines}
    assert "model.width" not in lines[0]  # the same in all runs
