"""LaTeX table of a report: what it shows, and that it fits every page that it is made for."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.config import construct
from lightexp.core.errors import BadInput
from lightexp.report.data import Report
from lightexp.report.latex import render_latex_document
from lightexp.report.latex_width import measure_width, split_pieces
from lightexp.report.runs import name_rows
from lightexp.report.summary import build_summary
from lightexp.report.table_spec import LatexLayout, TableSpec, parse_column
from tests.report.committed import EXPERIMENTS, read_committed_report
from tests.synthetic import synthesize_record, synthesize_records
from tests.system_packages import require_program

COMMITTED = sorted(path.stem for path in EXPERIMENTS.glob("0*.yaml"))
NEURIPS = r"\documentclass{article}\setlength{\textwidth}{397.48pt}"
TWO_COLUMNS = r"\documentclass[twocolumn]{article}"


def compile_tables(tables: list[str], preamble: str, folder: Path) -> list[str]:
    """Compile tables on pages of their own and return what TeX says of material that does not fit."""
    require_program("pdflatex")
    pages = "\n\\clearpage\n".join(tables)
    (folder / "x.tex").write_text(
        f"{preamble}\\usepackage{{booktabs}}\\begin{{document}}\n{pages}\n\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-2000:]
    return re.findall(r"Overfull .*|.*Float too large.*", process.stdout)


def lay_out(report: Report, **latex: Any) -> Report:
    return replace(report, spec=replace(report.spec, latex=construct(LatexLayout, latex, "latex")))


def test_table_has_few_columns_with_units_in_their_heads(report: Report) -> None:
    table = render_latex_document(report)
    assert table.isascii()
    head = table.partition(r"\toprule")[2].partition(r"\midrule")[0]
    assert head.count("&") == 2 * 5  # accuracy, its change, bytes, ratio, and latency: all rows have the same MACs
    for text in (r"test (\%) $\uparrow$", r"$\Delta$ (pp)", r"bytes $\downarrow$", r"$\times$"):
        assert text in head
    control, prune = (re.search(rf"{name} & .*", table) for name in ("control", "prune"))
    assert control is not None
    assert prune is not None
    assert r"\%" not in control[0]
    assert "***" in prune[0].split("&")[1]
    assert "*" not in prune[0].split("&")[3]
    assert r"\textbf{" in table
    assert r"\multicolumn" in table


def test_table_scales_large_counts(report: Report) -> None:
    records = [synthesize_record(row, seed) for row, seed in (("a", 0), ("b", 1), ("c", 2))]
    for record in records:
        for metric in record.stages[-1].metrics:
            if metric.name == "compute/macs":
                object.__setattr__(metric, "value", 12_345_678)
    spec = TableSpec("x", columns=tuple(parse_column(n, "") for n in ("accuracy/test", "compute/macs")))
    table = render_latex_document(build_summary(name_rows(records), spec))
    assert r"MACs (k) $\downarrow$" in table
    assert "& 12,345.7 " in table


def test_table_that_is_too_wide_says_what_it_leaves_out(report: Report) -> None:
    full = render_latex_document(lay_out(report))
    assert "[$-$" in full
    narrow = render_latex_document(lay_out(report, width="170pt"))
    assert "For want of width" in narrow
    assert "[$-$" not in narrow
    assert r"\begin{table*}" not in narrow
    assert r"\begin{table*}[t]" in render_latex_document(lay_out(report, columns=2, width="170pt"))


@pytest.mark.parametrize(
    ("preamble", "latex"),
    [
        (r"\documentclass{article}", {}),
        (TWO_COLUMNS, {"columns": 2}),
        (NEURIPS, {"width": "5.5in"}),
        (TWO_COLUMNS + r"\setlength{\textwidth}{516pt}\setlength{\columnsep}{12pt}", {"columns": 2, "width": "252pt"}),
    ],
    ids=["article", "two columns", "NeurIPS", "IEEE"],
)
def test_tables_of_all_experiments_fit(preamble: str, latex: dict[str, Any], tmp_path: Path) -> None:
    tables = [render_latex_document(read_committed_report(name, latex)) for name in COMMITTED]
    assert len(tables) > 10
    assert compile_tables(tables, preamble, tmp_path) == []


def test_committed_tables_fit(tmp_path: Path) -> None:
    tables = [(EXPERIMENTS / "results" / name / "table.tex").read_text() for name in COMMITTED]
    assert compile_tables(tables, r"\documentclass{article}", tmp_path) == []


def test_tables_with_special_names_and_all_columns_fit(report: Report, tmp_path: Path) -> None:
    all_columns = replace(report, paper_columns=report.spec.columns)
    long = synthesize_records(1)
    named = build_summary(
        [
            replace(run, row=f"{run.row} {'pipeline.stages.prune.' * 3}sparsity=0.9{'x' * 50}")
            for run in name_rows(long)
        ],
        TableSpec("long names"),
    )
    tables = [
        render_latex_document(one) for one in (report, all_columns, named, lay_out(all_columns, size="normalsize"))
    ]
    foreign = replace(report.rows[1], title="Müller & Łukasz, α=½ → 中")
    narrow = replace(report, rows=(report.rows[0], foreign, replace(report.rows[2], title="W" * 60)))
    tables.append(render_latex_document(lay_out(narrow, width="230pt")))
    assert tables[-1].startswith("% shown as ?, because LaTeX's usual fonts lack them: U+0416 U+4E2D\n")
    assert compile_tables(tables, r"\documentclass{article}", tmp_path) == []


@pytest.mark.parametrize("size", ["normalsize", "footnotesize"])
def test_tables_of_many_rows_take_several_pages(report: Report, size: str, tmp_path: Path) -> None:
    control, row, *_ = report.rows
    few = [replace(row, name=f"{n}", title=f"{n} {'long name ' * 6}") for n in range(24)]
    many = [replace(row, name=f"row {n}", title=f"row {n}") for n in range(300)]
    narrow = lay_out(replace(report, rows=(control, *few)), width="160pt", size=size)
    long = lay_out(replace(report, rows=(control, *many)), size=size)
    tables = [render_latex_document(one) for one in (narrow, long)]
    parts, rest = divmod(tables[0].count("long name"), 24 * 6)
    assert rest == 0
    assert tables[0].count(r"\toprule") > parts > 0
    assert tables[1].count("\nrow ") == 199
    assert "200 of 301 rows, those on the front before others; table.csv has all." in tables[1]
    assert compile_tables(tables, r"\documentclass{article}", tmp_path) == []


def test_table_that_fits_no_page_is_refused(report: Report) -> None:
    column = replace(report.paper_columns[0], heading="W" * 60)
    with pytest.raises(BadInput, match=r"a column are wider than 345pt\. Set a larger latex\.width"):
        render_latex_document(replace(report, paper_columns=(column,)))


def test_measured_widths_are_those_of_computer_modern() -> None:
    assert measure_width("0.5", "normalsize") == pytest.approx(5.0 + 2.78 + 5.0)
    assert measure_width("prune", "normalsize") == pytest.approx(25.03, abs=0.2)  # by TeX
    assert "".join(split_pieces("a" * 40)) == "a" * 40
