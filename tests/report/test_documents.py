"""Markdown and LaTeX documents of a report."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

from lightexp.core.primary_metric import PrimaryMetric
from lightexp.report import documents
from lightexp.report.data import Report
from lightexp.report.statistics import Difference
from tests.system_packages import require_program


def test_markdown_has_a_row_for_each_of_the_report(report: Report) -> None:
    text = documents.render_markdown_document(report)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(report.rows)
    for row in rows:
        assert row.replace("\\|", "").count("|") == len(report.spec.columns) + 3
    assert "**3.9x" not in text
    assert rows[2].startswith("| control |")  # without the kind, which the name holds
    assert "0.0% ± 0.0" not in text
    assert rows[-2].startswith("| order a\\>b | refused |  |")


def test_markdown_has_notes_and_commands(report: Report) -> None:
    text = documents.render_markdown_document(report)
    assert "- order a\\>b (refused): 'b' cannot follow 'a'" in text
    assert "Published & done (published)" in text
    assert "\\<b\\>" in text
    assert "lightexp ablate x.yaml" in text


def test_latex_emphasises_and_aligns(report: Report) -> None:
    table = documents.render_latex_document(report)
    assert table.isascii()
    assert "\\textbf{" in table
    assert "\\underline{" in table
    assert "$^{***}$" in table
    assert table.splitlines()[9].startswith("control &")
    assert table.splitlines()[9].endswith(r"& -- \\")
    assert "& $-$" in table


def test_latex_compiles(report: Report, tmp_path: Path) -> None:
    require_program("pdflatex")
    table = documents.render_latex_document(report)
    text = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + table + "\\end{document}\n"
    (tmp_path / "x.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-2000:]
    assert (tmp_path / "x.pdf").stat().st_size > 1_000


def test_legend_explains_what_the_table_shows(report: Report) -> None:
    legend = documents.list_legend(report)
    assert legend[0] == (
        "Mean ± sample standard deviation over 3 to 5 seeds; ratios are geometric means (×/÷ their spread)."
    )
    assert legend[2].startswith("* p < 0.05")
    assert report.hypervolume is not None
    assert legend[3].startswith(f"Hypervolume of size and error: {report.hypervolume[0]:.4g}, 95% interval [")
    with_margin = documents.list_legend(replace(report, spec=replace(report.spec, margin=1.5), hypervolume=None))
    assert with_margin[2].startswith("† no worse than the control by 1.5 pp or more")
    assert len(with_margin) == 3


def test_format_difference_shows_the_interval() -> None:
    assert documents.format_difference(None, PrimaryMetric()) == "–"
    change = Difference(3, -0.000595, -0.0017, 0.00055, 0.1)
    auc, rmse = PrimaryMetric("auc", is_share=False), PrimaryMetric("rmse", "min", 80.0, is_share=False)
    assert documents.format_difference(change, auc) == "-0.0006 [-0.0017, +0.0006]"
    assert documents.format_difference(change, rmse) == "-0.000595 [-0.0017, +0.00055]"
    assert documents.format_difference(Difference(1, -0.01, None, None, None), PrimaryMetric()) == "-1.00"
    assert (
        documents.format_difference(Difference(3, 0.01, -0.002, 0.022, 0.1), PrimaryMetric()) == "+1.00 [-0.20, +2.20]"
    )
