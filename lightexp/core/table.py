"""Table model (columns, rows, cells, caption, notes) and its text, Markdown and HTML renderers.

Every table of lightexp is one `Table`, whatever shows it; control characters are stripped from its texts. This module
depends on nothing, so that records and searches can use it; `lightexp.report.table` adds the renderers for LaTeX and
for the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lightexp.core.formatting import escape_html, escape_markdown, strip_controls

Direction = Literal["max", "min"]
_ARROWS: dict[Direction | None, str] = {"max": " ↑", "min": " ↓", None: ""}


@dataclass(frozen=True)
class TableColumn:
    """The heading of a column and how its cells are laid out.

    Attributes:
        heading: Text of the heading.
        direction: Which way is better, shown as an arrow; None shows no arrow.
        align: Side on which cells line up: `left` for text, `right` for formatted numbers, whose characters Markdown
            leaves as they are.
        wrap: Whether a terminal may break cells over several lines.
    """

    heading: str
    direction: Direction | None = None
    align: Literal["left", "right"] = "right"
    wrap: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "heading", strip_controls(self.heading))

    @property
    def arrow_heading(self) -> str:
        """The heading with an arrow up where more is better, or down where less is."""
        return self.heading + _ARROWS[self.direction]


@dataclass(frozen=True)
class TableCell:
    """One value of a table.

    Attributes:
        value: The value as text.
        spread: Its spread over repetitions, such as `± 0.20`.
        mark: Footnote mark, such as `*` or `†`.
        emphasis: `best` or `second` of the column, shown bold or underlined.
        style: Colour on a terminal, such as `green`.
    """

    value: str
    spread: str = ""
    mark: str = ""
    emphasis: Literal["best", "second"] | None = None
    style: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", strip_controls(self.value))

    @property
    def text(self) -> str:
        """The value and its spread, without the mark."""
        return f"{self.value} {self.spread}" if self.spread else self.value


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        cells: At most one per column; columns beyond the last cell stay empty.
        kind: What the row holds: `control`, `row`, `infeasible` (breaks a study's constraint), `external` (published
            elsewhere) or `refused` (cannot run).
    """

    cells: tuple[TableCell, ...]
    kind: Literal["control", "row", "infeasible", "external", "refused"] = "row"


@dataclass(frozen=True)
class Table:
    """A table as data, independent of its rendering.

    Attributes:
        columns: The columns, from left to right.
        rows: The rows, from top to bottom.
        caption: Title of the table.
        notes: Lines below the table.

    Example:
        >>> table = Table.from_text(["Stage", TableColumn("Bytes")], [["train", "1,024"], ["prune", "96"]])
        >>> print(render_text(table))
        Stage  Bytes
        train  1,024
        prune     96
    """

    columns: tuple[TableColumn, ...]
    rows: tuple[TableRow, ...]
    caption: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "caption", strip_controls(self.caption))
        object.__setattr__(self, "notes", tuple(map(strip_controls, self.notes)))

    @classmethod
    def from_text(
        cls,
        columns: Sequence[TableColumn | str],
        rows: Iterable[Sequence[str]],
        caption: str = "",
        notes: Sequence[str] = (),
    ) -> Table:
        """Return a table of plain cells.

        Args:
            columns: The columns; a string is the heading of a left-aligned one.
            rows: The cells' texts, row by row.
            caption: Title of the table.
            notes: Lines below the table.
        """
        body = tuple(TableRow(tuple(TableCell(text) for text in row)) for row in rows)
        headings = (TableColumn(column, align="left") if isinstance(column, str) else column for column in columns)
        return cls(tuple(headings), body, caption, tuple(notes))

    def select_columns(self, start: int, end: int) -> Table:
        """Return the table with its first column and the columns from `start` up to `end`, without `end`."""
        rows = tuple(replace(row, cells=row.cells[:1] + row.cells[start:end]) for row in self.rows)
        return replace(self, columns=self.columns[:1] + self.columns[start:end], rows=rows)

    @property
    def texts(self) -> list[list[str]]:
        """The headings, then each row's cells with their marks, as text; short rows are filled up."""
        lines = [[column.heading for column in self.columns]]
        for row in self.rows:
            texts = [cell.text + cell.mark for cell in row.cells]
            lines.append(texts + [""] * (len(self.columns) - len(texts)))
        return lines


def render_text(table: Table) -> str:
    """Return the table as plain lines with aligned columns, the caption above and the notes below."""
    lines = table.texts
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rendered = [table.caption] if table.caption else []
    for line in lines:
        cells = [
            text.ljust(width) if column.align == "left" else text.rjust(width)
            for text, width, column in zip(line, widths, table.columns, strict=True)
        ]
        rendered.append("  ".join(cells))
    return "\n".join([*rendered, *table.notes])


def render_markdown(table: Table) -> str:
    """Return the table in Markdown without caption and notes; the best value is bold, the second underlined."""
    lines = [
        [escape_markdown(column.arrow_heading) for column in table.columns],
        ["---" if column.align == "left" else "---:" for column in table.columns],
    ]
    for row in table.rows:
        cells = [_render_markdown_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=False)]
        lines.append(cells + [""] * (len(table.columns) - len(cells)))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _render_markdown_cell(cell: TableCell, column: TableColumn) -> str:
    text = escape_markdown(cell.text) if column.align == "left" else cell.text
    if cell.emphasis == "best":
        text = f"**{text}**"
    elif cell.emphasis == "second":
        text = f"<u>{text}</u>"
    return text + escape_markdown(cell.mark)


def render_html(table: Table) -> str:
    """Return the table as an HTML `<table>`, with a paragraph for each note."""
    headings, *rows = [[escape_html(text) for text in line] for line in table.texts]
    lines = [f"<table><caption>{escape_html(table.caption)}</caption>"]
    lines.append(f"<tr><th>{'</th><th>'.join(headings)}</th></tr>")
    lines += [f"<tr><td>{'</td><td>'.join(cells)}</td></tr>" for cells in rows]
    lines.append("</table>")
    return "\n".join([*lines, *(f"<p>{escape_html(note)}</p>" for note in table.notes)])
