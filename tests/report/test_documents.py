"""Markdown document of a report and its legend."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from lightexp.core.primary_metric import PrimaryMetric
from lightexp.report import documents
from lightexp.report.data import Report
from lightexp.report.statistics import Difference


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


def test_legend_explains_what_the_table_shows(report: Report) -> None:
    legend = documents.list_legend(report)
    assert legend[0] == (
        "Mean ± sample standard deviation over 3 to 5 seeds; ratios are geometric means (×/÷ their spread)."
    )
    assert legend[2].startswith("* p < 0.05")
    assert legend[2].endswith("sizes, computation and times are not marked.")
    assert report.hypervolume is not None
    assert legend[3].startswith(f"Hypervolume of size and error: {report.hypervolume[0]:.4g}, 95% interval [")
    with_margin = documents.list_legend(replace(report, spec=replace(report.spec, margin=1.5), hypervolume=None))
    assert with_margin[2].startswith("† no worse than the control by 1.5 pp or more")
    assert len(with_margin) == 3
    unmarked = documents.list_legend(replace(report, spec=replace(report.spec, stars="none")))
    assert not any("p <" in line for line in unmarked)


def test_table_shows_the_change_after_the_primary_metric(report: Report) -> None:
    table = documents.build_table(report, label=lambda row: row.title)
    headings = [column.heading for column in table.columns]
    assert headings.index("Δ accuracy (pp)") == headings.index("Accuracy test") + 1
    assert table.rows[1].cells[headings.index("Δ accuracy (pp)")].value.startswith("-0.")


def test_table_marks_sizes_only_on_request(report: Report) -> None:
    def list_marked(stars: Literal["quality", "all", "none"]) -> set[str]:
        changed = replace(report, spec=replace(report.spec, stars=stars))
        table = documents.build_table(changed, label=lambda row: row.title)
        cells = [zip(table.columns, row.cells, strict=False) for row in table.rows]
        return {column.heading for row in cells for column, cell in row if cell.mark}

    assert list_marked("quality") == {"Accuracy val", "Accuracy test"}
    assert "p50 µs" in list_marked("all")
    assert list_marked("none") == set()


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


def test_limit_rows_keeps_the_front_before_others(report: Report) -> None:
    assert documents.limit_rows(report, len(report.rows)) == (report, [])
    limited, [sentence] = documents.limit_rows(report, 5)
    order = [row.name for row in report.rows]
    names = [row.name for row in limited.rows]
    assert names == sorted(names, key=order.index)
    special = {row.name for row in report.rows if row.kind != "row"}
    on_front = [row.name for row in report.rows if row.kind == "row" and row.front]
    assert special <= set(names)
    assert set(names) - special <= set(on_front)  # there are more of these than places
    assert sentence == f"5 of {len(order)} rows, those on the front before others; table.csv has all."
    table = documents.build_table(report, lambda row: row.title, 5)
    assert len(table.rows) == 5
    assert table.notes[-1] == sentence
    assert table.notes[:-1] == tuple(documents.list_legend(report))
