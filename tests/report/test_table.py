"""Terminal renderer of tables."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from lightexp.report.table import (
    Table,
    TableCell,
    TableColumn,
    TableRow,
    build_rich_table,
    print_table,
    print_whole_words,
)


def build_table(columns: int = 2) -> Table:
    metrics = [TableColumn(f"Metric {n}", "max", wrap=False) for n in range(columns)]
    cells = tuple(TableCell(f"{n}.{n}%", "± 0.2") for n in range(columns))
    rows = (
        TableRow((TableCell("control"), *cells), "control"),
        TableRow((TableCell("a_b"), replace(cells[0], mark="**", emphasis="best"), *cells[1:])),
        TableRow((TableCell("c"), TableCell("-1.5 [-2, 1e-05]", mark="†", emphasis="second"), *cells[1:])),
        TableRow((TableCell("d"), TableCell("refused")), "refused"),
        TableRow((TableCell("Doe 2020"), *cells), "external"),
    )
    return Table((TableColumn("", align="left"), *metrics), rows, "A [bold]title[/bold]")


def print_to_text(table: Table, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_table(console, table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_rich_table_shows_markup_as_text() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(build_rich_table(build_table(), framed=True))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "A [bold]title[/bold]" in text
    assert "-1.5 [-2, 1e-05]†" in text


def test_rich_table_colours_cells_by_their_style() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    row = TableRow((TableCell("bad", style="red"),))
    console.print(build_rich_table(Table((TableColumn("State", align="left"),), (row,))))
    assert isinstance(console.file, io.StringIO)
    assert "\x1b[31mbad" in console.file.getvalue()


def test_print_whole_words_keeps_long_paths() -> None:
    console = Console(file=io.StringIO(), width=40)
    path = "/a" * 40
    cells = (TableCell("outputs"), TableCell(f"{path}, which will be created"))
    columns = (TableColumn("What", align="left"), TableColumn("Found", align="left"))
    print_whole_words(console, build_rich_table(Table(columns, (TableRow(cells),))))
    assert isinstance(console.file, io.StringIO)
    assert path in console.file.getvalue()


def test_print_table_fits_a_wide_terminal() -> None:
    text = print_to_text(build_table(6), 150)
    assert text.count("control") == 1
    assert "Metric 5" in text.splitlines()[1] + text.splitlines()[2]


@pytest.mark.parametrize("width", [30, 45, 60])
def test_print_table_splits_columns_on_a_narrow_terminal(width: int) -> None:
    text = print_to_text(build_table(6), width)
    assert text.count("control") > 1
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    for number in range(6):
        assert text.count(f"Metric {number}") == 1


def test_print_table_splits_where_the_last_columns_are_wide() -> None:
    columns = [TableColumn("Stage", align="left"), *(TableColumn(f"M{n}", wrap=False) for n in range(4))]
    columns += [TableColumn(f"a very wide metric {n}", wrap=False) for n in range(4)]
    table = Table(tuple(columns), (TableRow(tuple(TableCell(name) for name in ["control", *"12345678"])),))
    text = print_to_text(table, 80)
    for heading in (column.heading for column in columns[1:]):
        assert text.count(heading) == 1
    assert text.count("control") == text.count("Stage") == 3
