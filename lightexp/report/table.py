"""Renderers of `lightexp.core.table.Table`: text, Markdown and HTML from there, the terminal (rich) here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from lightexp.core.formatting import escape_markup
from lightexp.core.table import (
    Table,
    TableCell,
    TableColumn,
    TableRow,
    render_html,
    render_markdown,
    render_text,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table as RichTable

__all__ = [
    "Table",
    "TableCell",
    "TableColumn",
    "TableRow",
    "build_rich_table",
    "print_table",
    "print_whole_words",
    "render_html",
    "render_markdown",
    "render_text",
]

_ROW_STYLES = {"control": "bold", "row": "", "infeasible": "dim", "external": "italic dim", "refused": "dim"}


def build_rich_table(table: Table, framed: bool = False) -> RichTable:
    """Return the table for a rich console; whatever a cell holds is shown as text.

    Args:
        table: The table; its notes are left to the caller, because a console wraps them differently.
        framed: Whether to draw a rule below the last row and pad the edges.
    """
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    caption = escape_markup(table.caption) or None  # rich styles a title only where it is a string
    rich_table = RichTable(box=box.SIMPLE if framed else box.SIMPLE_HEAD, pad_edge=framed, title=caption)
    for column in table.columns:
        overflow: Literal["fold", "ellipsis"] = "fold" if column.wrap else "ellipsis"
        rich_table.add_column(Text(column.heading), justify=column.align, overflow=overflow, no_wrap=not column.wrap)
    for row in table.rows:
        cells = (Text(cell.text + cell.mark, style=cell.style) for cell in row.cells)
        rich_table.add_row(*cells, style=_ROW_STYLES[row.kind])
    return rich_table


def print_table(console: Console, table: Table) -> None:
    """Print the table; where it is wider than the terminal, in parts below one another.

    The parts have equally many columns, as many as fit in every part. Each repeats the first column.
    """
    count = max(len(table.columns) - 1, 1)
    parts: list[RichTable] = []
    for width in sorted({math.ceil(count / number) for number in range(1, count + 1)}, reverse=True):
        parts = [build_rich_table(table.select_columns(start, start + width)) for start in range(1, count + 1, width)]
        if all(_measure(console, part).maximum <= console.width for part in parts):
            break
    for part in parts:
        console.print(part)


def print_whole_words(console: Console, table: RichTable) -> None:
    """Print a table without breaking any word, so that a path can be copied, even if the table is wider than a line."""
    console.width = max(console.width, _measure(console, table).minimum)
    console.print(table, crop=False)


def _measure(console: Console, table: RichTable) -> Measurement:
    """Return the smallest and the largest width of a table that nothing limits."""
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(max_width=10_000), table)
