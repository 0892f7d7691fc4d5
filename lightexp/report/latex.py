"""The table of a report in LaTeX (`table.tex`), no wider than the page that it is made for."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lightexp.core.columns import MISSING, MetricColumn
from lightexp.core.errors import BadInput
from lightexp.core.formatting import escape_latex
from lightexp.report import documents
from lightexp.report.data import Report, ReportRow, format_summary
from lightexp.report.latex_width import measure_mark, measure_width, split_pieces

_MINUS = re.compile(r"(?<![\w-])-(?=\d)")  # not the hyphen of an exponent or of a range
_SPREAD = {"± ": "±", "×/÷ ": "×/÷"}
_UNITS = {"%": "%", "x": "×"}
_SCALES = ((1e6, "M"), (1e3, "k"))
_MIN_SEPARATION, _SEPARATION = 2.5, 5.0  # \tabcolsep in points
_SLACK = 2.0  # points by which estimated widths may be too small
_INDENT = 8.0
_LONG_WORD = 20  # characters
_MAX_ROWS = 200  # LaTeX holds 52 floats that wait for their page
_MAX_LINES = 30  # of all parts on one page
_MAX_HEIGHT = 420.0  # points of the rows of one part, below its caption and above the legend
_LINE_HEIGHTS = {"normalsize": 12.0, "small": 11.0, "footnotesize": 9.5, "scriptsize": 8.0}
_NAME_SHARES = (0.2, 0.45)  # of the width: the least and the most for names that are broken over lines


@dataclass(frozen=True)
class LatexCell:
    """A cell: its text before escaping, a footnote mark, and the LaTeX command that emphasises it or none."""

    text: str
    mark: str = ""
    command: str = ""

    def measure(self, size: str) -> float:
        """Return the width in points without the mark."""
        return measure_width(_MINUS.sub("−", self.text), size, self.command == "textbf")

    def render(self, widest_mark: str) -> str:
        """Return the cell in LaTeX, with room for the widest mark of its column, so that numbers line up."""
        text = _escape(self.text)
        if self.command:
            text = rf"\{self.command}{{{text}}}"
        room = widest_mark[len(self.mark) :]
        return text + _render_mark(self.mark) + (rf"\phantom{{{_render_mark(room)}}}" if room else "")


@dataclass(frozen=True)
class LatexColumn:
    """A column of numbers: its heading on at most two lines, and a cell for each row that has numbers."""

    heading: tuple[str, str]
    cells: tuple[LatexCell, ...]

    def measure(self, size: str) -> float:
        """Return the width in points."""
        headings = [measure_width(line, size) for line in self.heading]
        cells = [cell.measure(size) for cell in self.cells]
        return max([*headings, max(cells, default=0.0) + measure_mark(self.widest_mark, size)])

    @cached_property
    def widest_mark(self) -> str:
        """The longest mark of its cells."""
        return max((cell.mark for cell in self.cells), key=len, default="")


@dataclass(frozen=True)
class _Detail:
    """What the table shows besides means: intervals of differences, and spreads of other columns than the primary."""

    intervals: bool = True
    spreads: bool = True


_DETAILS = (_Detail(), _Detail(intervals=False), _Detail(intervals=False, spreads=False))


@dataclass(frozen=True)
class _Layout:
    r"""A table that fits.

    Attributes:
        parts: Columns of each part; the parts are below one another.
        name_width: Width of the first column in points; None sets names on one line.
        separation: `\tabcolsep` in points.
        detail: What the table shows.
        width: Width that is available in points.
    """

    parts: tuple[tuple[LatexColumn, ...], ...]
    name_width: float | None
    separation: float
    detail: _Detail
    width: float


def render_latex_document(report: Report) -> str:
    """Return `table.tex`: a `table` environment with caption, label, table and legend; needs booktabs.

    A table that is too wide for one of two columns becomes a `table*`. What is still too wide loses the intervals of
    the differences, then the spreads of all but the primary metric, and is then set in parts below one another, or on
    several pages if it is too long.

    Raises:
        BadInput: If not even a column fits with the rows' names.
    """
    page, complete = report.spec.latex, report
    report, left_out = documents.limit_rows(report, _MAX_ROWS)
    layout = _fit(report, page.column_width, _DETAILS[:1], max_parts=1)
    environment = "table"
    if layout is None:
        environment = "table" if page.columns == 1 else "table*"
        layout = _fit(report, page.page_width, _DETAILS, max_parts=len(report.paper_columns) + 1)
    if layout is None:
        raise BadInput(
            f"table.tex: the rows' names and a column are wider than {page.page_width:g}pt. Set a larger latex.width, "
            "latex.size=scriptsize, shorter headings in columns, or shorter names by labels={ROW: NAME}."
        )
    label = "tab:" + "".join(c if c.isalnum() and c.isascii() else "-" for c in report.spec.title)
    legend = " ".join([*_list_legend(complete, layout.detail), *left_out])
    begin = [
        rf"\begin{{{environment}}}[t]",
        rf"\centering\{page.size}\setlength{{\tabcolsep}}{{{layout.separation:.1f}pt}}\emergencystretch=3em",
    ]
    pages = _split_rows(report, layout)
    gap = ["", r"\medskip"]
    if len(pages) > 1 or len(report.rows) * len(layout.parts) > _MAX_LINES:
        gap = [rf"\end{{{environment}}}", *begin, rf"Table~\ref{{{label}}}, continued\par\smallskip"]
    first, *others = (_render_part(report, layout, part, page_rows) for page_rows in pages for part in layout.parts)
    texts = "".join([report.spec.claim, legend, *map(_name_row, report.rows)])
    unknown = dict.fromkeys(f"U+{ord(c):04X}" for c in texts if not c.isascii() and escape_latex(c) == "?")
    lines = [
        *([f"% shown as ?, because LaTeX's usual fonts lack them: {' '.join(unknown)}"] if unknown else []),
        rf"% needs \usepackage{{booktabs}}; {layout.width:g}pt wide: set latex={{columns: 1|2, width: ..., size: ...}}",
        *begin,
        rf"\caption{{{_render_text(report.spec.claim or report.spec.title)}}}",
        rf"\label{{{label}}}",
        first,
        *(line for part in others for line in (*gap, part)),
        rf"\par\smallskip\raggedright\footnotesize {_render_text(legend)}",
        rf"\end{{{environment}}}",
    ]
    return "\n".join(lines) + "\n"


def _fit(report: Report, width: float, details: Sequence[_Detail], max_parts: int) -> _Layout | None:
    """Return the first layout that fits a width: with most detail in fewest parts; None if none does."""
    size = report.spec.latex.size
    names = [_name_row(row) for row in report.rows]
    widest = max(measure_width(name, size) for name in names)
    broken = max(measure_width(piece, size) for name in names for piece in split_pieces(name)) + _INDENT
    narrowest = min(widest, max(broken, _NAME_SHARES[0] * width))
    for count, detail in itertools.product(range(1, max_parts + 1), details):
        columns = _build_columns(report, detail)
        length = math.ceil(len(columns) / count)
        parts = tuple(tuple(columns[i : i + length]) for i in range(0, len(columns), length))
        contents = [sum(column.measure(size) for column in part) + _SLACK for part in parts]
        room = min(
            width - content - 2 * len(part) * _MIN_SEPARATION for content, part in zip(contents, parts, strict=True)
        )
        if room >= narrowest:
            name_width = min(widest, room, max(narrowest, _NAME_SHARES[1] * width))
            spaces = (width - content - name_width for content in contents)
            separation = min(space / (2 * len(part)) for space, part in zip(spaces, parts, strict=True))
            fixed_width = None if name_width == widest else name_width
            return _Layout(parts, fixed_width, min(separation, _SEPARATION), detail, width)
    return None


def _name_row(row: ReportRow) -> str:
    """Return the row's title; the control needs no word there, because a rule sets it off."""
    return f"{row.title} (published)" if row.kind == "external" else row.title


def _build_columns(report: Report, detail: _Detail) -> list[LatexColumn]:
    """Return the columns of numbers, with the differences after the primary metric."""
    rows = [row for row in report.rows if row.kind != "refused"]
    columns, place = [], len(report.paper_columns)
    for index, column in enumerate(report.paper_columns):
        is_primary = column.name == report.quality
        columns.append(_build_column(report, column, rows, is_primary or detail.spreads))
        if is_primary:
            place = index + 1
    unit = report.primary.difference_unit
    changes = []
    for row in rows:
        difference = row.metric(report.quality).difference
        if difference is not None and not detail.intervals:
            difference = replace(difference, low=None, high=None)
        changes.append(LatexCell(documents.format_difference(difference, report.primary)))
    columns.insert(place, LatexColumn(_break_heading(f"Δ ({unit})" if unit else "Δ"), tuple(changes)))
    return columns


def _build_column(report: Report, column: MetricColumn, rows: Sequence[ReportRow], has_spread: bool) -> LatexColumn:
    """Return a column whose unit is in its heading."""
    values = [row.metric(column.name).mean for row in rows]
    factor, prefix = _choose_scale(column, [abs(value) for value in values if value])
    scaled = replace(column, formatter=lambda value: f"{value / factor:,.1f}") if prefix else column
    texts = [format_summary(scaled, row.metric(column.name).summary) for row in rows]
    endings = {mean[-1] for mean, _ in texts if mean != MISSING}
    unit = _UNITS.get(endings.pop(), "") if len(endings) == 1 else ""
    cells = []
    for row, (mean, spread) in zip(rows, texts, strict=True):
        for long, short in _SPREAD.items():
            spread = spread.replace(long, short)
        text = mean[:-1] if unit and mean != MISSING else mean
        command = ("", "textbf", "underline")[row.metric(column.name).rank]
        cells.append(LatexCell(text + (spread if has_spread else ""), report.mark(column, row), command))
    note = f" ({prefix or unit})" if prefix or unit else ""
    arrow = {"max": " ↑", "min": " ↓"}.get(column.direction or "", "")
    return LatexColumn(_break_heading(f"{column.heading}{note}{arrow}"), tuple(cells))


def _choose_scale(column: MetricColumn, means: Sequence[float]) -> tuple[float, str]:
    """Return factor and prefix of whole numbers from a million, if each keeps three digits; otherwise 1 and none."""
    is_whole = column.format(1.0) == "1"
    for factor, prefix in _SCALES if is_whole and means and max(means) >= 1e6 else ():
        if min(means) >= 10 * factor:
            return factor, prefix
    return 1.0, ""


def _break_heading(heading: str) -> tuple[str, str]:
    """Return a heading on two lines of similar width; an arrow and a unit stay with the word before."""
    words = re.sub(r" (?=[↑↓(])", "\u00a0", heading).split(" ")
    splits = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(len(words))]
    first, second = min(splits, key=lambda lines: max(measure_width(line, "normalsize") for line in lines))
    return first.replace("\u00a0", " "), second.replace("\u00a0", " ")


def _split_rows(report: Report, layout: _Layout) -> list[range]:
    """Return the numbers of the rows on each page, so that no part is higher than a page's text."""
    size, pages, start, height = report.spec.latex.size, [], 0, 0.0
    for number, row in enumerate(report.rows):
        lines = 1 if layout.name_width is None else _count_lines(_name_row(row), layout.name_width, size)
        if height + lines * _LINE_HEIGHTS[size] > _MAX_HEIGHT:
            pages.append(range(start, number))
            start, height = number, 0.0
        height += lines * _LINE_HEIGHTS[size]
    return [*pages, range(start, len(report.rows))]


def _count_lines(name: str, width: float, size: str) -> int:
    """Return on how many lines a name is set whose parts each go on the line that is begun, or on a new one."""
    lines, used = 1, 0.0
    for piece in split_pieces(name):
        piece_width = measure_width(piece, size)
        if used and used + piece_width > width:
            lines, used = lines + 1, _INDENT
        used += piece_width
    return lines


def _render_part(report: Report, layout: _Layout, columns: Sequence[LatexColumn], page_rows: range) -> str:
    """Return a `tabular` of some rows; a rule follows the control, and precedes published and refused rows."""
    first = "l" if layout.name_width is None else f"p{{{layout.name_width:.1f}pt}}"
    lines = [rf"\begin{{tabular}}{{@{{}}{first}{'r' * len(columns)}@{{}}}}", r"\toprule"]
    for line in (0, 1):
        headings = [_escape(column.heading[line]) for column in columns]
        if any(headings):
            lines.append(" & ".join(["", *headings]) + r" \\")
    lines.append(r"\midrule")
    rows = report.rows[page_rows.start : page_rows.stop]
    previous = rows[0].kind if page_rows.start else "control"
    number = sum(row.kind != "refused" for row in report.rows[: page_rows.start])
    for row in rows:
        starts_group = row.kind != previous and row.kind in ("external", "refused")
        if starts_group or (previous == "control" and row.kind != "control"):
            lines.append(r"\midrule")
        previous = row.kind
        cells = [rf"\multicolumn{{{len(columns)}}}{{l@{{}}}}{{refused}}"]
        if row.kind != "refused":
            cells = [column.cells[number].render(column.widest_mark) for column in columns]
            number += 1
        lines.append(" & ".join([_render_name(_name_row(row), layout), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _render_name(name: str, layout: _Layout) -> str:
    if layout.name_width is None:
        return escape_latex(name)
    breakable = (r"\allowbreak{}".join(map(escape_latex, split_pieces(word))) for word in name.split())
    return rf"\raggedright\hangindent={_INDENT:g}pt {' '.join(breakable)}"


def _render_text(text: str) -> str:
    """Return a text in LaTeX whose long words may be broken."""
    pieces_by_word = (split_pieces(word) if len(word) > _LONG_WORD else [word] for word in text.split())
    return " ".join(r"\allowbreak{}".join(map(escape_latex, pieces)) for pieces in pieces_by_word)


def _render_mark(mark: str) -> str:
    signs = mark.lstrip("*")
    stars = mark.removesuffix(signs)
    return (f"$^{{{stars}}}$" if stars else "") + escape_latex(signs)


def _escape(text: str) -> str:
    return _MINUS.sub("$-$", escape_latex(text))


def _list_legend(report: Report, detail: _Detail) -> list[str]:
    """Return what the table's numbers and marks mean, and what has been left out of it."""
    legend = documents.list_legend(replace(report, spec=replace(report.spec, columns=report.paper_columns)))
    if not detail.intervals:
        legend[1] = f"Δ: difference to the control{documents.describe_unit(report.primary)}."
        left_out = "95% intervals" if detail.spreads else "95% intervals and the spreads of the other columns"
        legend.append(f"For want of width, {left_out} are in table.csv alone.")
    return legend
