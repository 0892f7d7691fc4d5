"""Terminal output of reports and comparisons; `tests/ablation` tests the plan of an ablation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightexp.cli import ablation_view
from lightexp.report.compare import compare_runs
from lightexp.report.runs import name_rows
from lightexp.report.summary import build_summary
from lightexp.report.table_spec import TableSpec
from tests.synthetic import synthesize_record, synthesize_records


def test_print_report_shows_table_legend_and_questions(capsys: pytest.CaptureFixture[str]) -> None:
    spec = TableSpec("a [red]title[/red]", control="control")
    report = build_summary(name_rows(synthesize_records(3)), spec, {"order a>b": "'b' cannot follow 'a'"})
    ablation_view.print_report(replace(report, questions=("is [this] enough?",)))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "a [red]title[/red]" in lines
    assert "Accuracy test        Δ accuracy (pp)" in next(line for line in lines if line.startswith("Row"))
    assert next(line for line in lines if line.startswith("both, harder")).split()[2].endswith("%")
    assert next(line for line in lines if line.startswith("order a>b")).endswith("refused")
    assert any(line.startswith("Mean ± sample standard deviation over 3 seeds") for line in lines)
    assert lines[-1] == "reviewer is [this] enough?"


def test_print_comparison_leaves_out_equal_settings(capsys: pytest.CaptureFixture[str]) -> None:
    runs = name_rows([synthesize_record("a", 0), synthesize_record("a", 1)])
    ablation_view.print_comparison(compare_runs(runs, runs, ("first", "second")))
    out = capsys.readouterr().out
    assert "Setting" not in out
    assert "Second - first [95%]" in out
    changed = name_rows([synthesize_record("a", 0, sparsity=0.5), synthesize_record("a", 1, sparsity=0.5)])
    ablation_view.print_comparison(compare_runs(runs, changed, ("first", "second")))
    out = capsys.readouterr().out
    assert "Setting" in out
    assert "pipeline.stages.prune.sparsity" in out
