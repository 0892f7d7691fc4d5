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
    from rich.table import Table as RichTable

__all__ = [
    "Table",
    "TableCell",
    "TableColumn",
    "TableRow",
    "build_rich_table",
    "print_table",
    "render_html",
    "render_markdown",
    "render_text",
]

_ROW_STYLES = {"control": "bold", "row": "", "external": "italic dim", "refused": "dim"}


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
    """Print the table; where it is wider than the terminal, in parts of similar width below one another.

    Each part repeats the first column.
    """
    from rich.measure import Measurement

    count = len(table.columns) - 1
    width = max(count, 1)
    unlimited = console.options.update(max_width=10_000)
    while width > 1:
        part = build_rich_table(table.select_columns(1, 1 + width))
        if Measurement.get(console, unlimited, part).maximum <= console.width:
            break
        width -= 1
    parts = max(math.ceil(count / width), 1)
    width = max(math.ceil(count / parts), 1)
    for part_index in range(parts):
        start = 1 + part_index * width
        console.print(build_rich_table(table.select_columns(start, start + width)))
