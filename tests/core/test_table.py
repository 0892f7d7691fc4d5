"""The table model and its text, Markdown and HTML renderers."""

from __future__ import annotations

import pytest

from lightexp.core.table import (
    Table,
    TableCell,
    TableColumn,
    TableRow,
    render_html,
    render_markdown,
    render_text,
)

NASTY = "a|b_<c>[d]"


@pytest.fixture
def table() -> Table:
    columns = (TableColumn("Row", align="left"), TableColumn("Accuracy", "max"), TableColumn("Bytes", "min"))
    rows = (
        TableRow((TableCell(NASTY), TableCell("97.2%", "± 0.2", "***", "best"), TableCell("1,024"))),
        TableRow((TableCell("b"), TableCell("90.0%", emphasis="second"), TableCell("96"))),
        TableRow((TableCell("c"), TableCell("refused")), "refused"),
    )
    return Table(columns, rows, "A <title>", ("a note_1",))


def test_render_text_aligns_columns(table: Table) -> None:
    assert render_text(table).splitlines() == [
        "A <title>",
        "Row               Accuracy  Bytes",
        "a|b_<c>[d]  97.2% ± 0.2***  1,024",
        "b                    90.0%     96",
        "c                  refused       ",
        "a note_1",
    ]


def test_render_markdown_marks_the_best_and_the_second(table: Table) -> None:
    assert render_markdown(table).splitlines() == [
        "| Row | Accuracy ↑ | Bytes ↓ |",
        "| --- | ---: | ---: |",
        r"| a\|b\_\<c\>\[d\] | **97.2% ± 0.2**\*\*\* | 1,024 |",
        "| b | <u>90.0%</u> | 96 |",
        "| c | refused |  |",
    ]


def test_render_html_escapes_text(table: Table) -> None:
    page = render_html(table)
    assert page.startswith("<table><caption>A &lt;title&gt;</caption>\n<tr><th>Row</th><th>Accuracy</th>")
    assert "<td>a|b_&lt;c&gt;[d]</td><td>97.2% ± 0.2***</td>" in page
    assert page.endswith("</table>\n<p>a note_1</p>")
    assert page.count("<tr>") == 4


def test_select_columns_keeps_the_first(table: Table) -> None:
    part = table.select_columns(2, 3)
    assert part.texts == [["Row", "Bytes"], [NASTY, "1,024"], ["b", "96"], ["c", ""]]
    assert part.rows[2].kind == "refused"


def test_from_text_accepts_plain_headings() -> None:
    table = Table.from_text(["Name", TableColumn("Value")], [["a", "1"]], notes=["note"])
    assert [column.align for column in table.columns] == ["left", "right"]
    assert table.texts == [["Name", "Value"], ["a", "1"]]
    assert table.notes == ("note",)
