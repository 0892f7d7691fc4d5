"""A report's tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from lightexp.core.columns import MISSING, MetricColumn
from lightexp.core.formatting import escape_latex, escape_markdown
from lightexp.report.runs import Run
from lightexp.report.statistics import Difference
from lightexp.report.summary import Cell, Report, Row, format_cell, is_ratio

_STARS = "* p < 0.05, ** p < 0.01, *** p < 0.001: paired by seed against the control, Holm-corrected over the rows"
_DAGGER = "† no worse than the control by {margin:g} pp or more (one-sided paired test, Holm-corrected, p < 0.05)"


def format_difference(found: Difference | None) -> str:
    """An accuracy's difference to the control in percentage points, with its interval."""
    if found is None:
        return MISSING
    words = f"{found.mean * 100:+.2f}"
    return (
        words
        if found.low is None or found.high is None
        else f"{words} [{found.low * 100:+.2f}, {found.high * 100:+.2f}]"
    )


def list_legend(report: Report) -> list[str]:
    """What the table's figures and marks mean."""
    few = {len(line.seeds) for line in report.lines if line.seeds}
    count = f"{min(few)}" if len(few) == 1 else f"{min(few)} to {max(few)}"
    seeds = "seed" if count == "1" else "seeds"
    ratios = any(is_ratio(column.name) for column in report.show.columns)
    means = "; ratios are geometric means (×/÷ their spread)" if ratios else ""
    found = [f"Mean ± sample standard deviation over {count} {seeds}{means}."]
    found.append(
        "Δ: difference to the control in percentage points, with the 95% t interval of the paired differences."
    )
    margin = report.show.margin
    found.append((_STARS if margin is None else f"{_DAGGER.format(margin=margin)}; other columns: {_STARS}") + ".")
    if report.hypervolume is not None:
        mean, low, high = report.hypervolume
        interval = f", 95% interval [{low:.4g}, {high:.4g}] over the seeds" if low < high else ""
        found.append(f"Hypervolume of size and error: {mean:.4g}{interval}.")
    return found


def render_markdown(report: Report) -> str:
    """The table as Markdown: best bold, with the claim above and the linter's words below."""
    columns = report.show.columns
    rows = [
        ["Row", *(_heading(column) for column in columns), "Δ accuracy (pp)"],
        ["---", *["---:"] * (len(columns) + 1)],
    ]
    for line in report.lines:
        if line.kind == "refused":
            rows.append([escape_markdown(line.name), "refused", *[""] * len(columns)])
            continue
        cells = [_markdown_cell(column, line.cells.get(column.name, Cell())) for column in columns]
        rows.append([escape_markdown(line.label), *cells, format_difference(_accuracy(report, line))])
    show = report.show
    head = [f"# {escape_markdown(show.title)}", ""]
    for label, words in (("", show.claim), ("Reference: ", show.reference), ("Cost: ", show.cost)):
        head += [label + escape_markdown(words), ""] if words else []
    noted = [line for line in report.lines if line.kind in ("external", "refused")]
    table = ["| " + " | ".join(row) + " |" for row in rows]
    below = ["", *(f"{escape_markdown(words)}  " for words in list_legend(report))]
    notes = ["", *(f"- {escape_markdown(line.label)}: {escape_markdown(line.note)}" for line in noted)] if noted else []
    asked = ["", "What a reviewer would ask:", "", *(f"- {escape_markdown(word)}" for word in report.words)]
    commands = ["", "Commands:", "", "```bash", *report.commands, "```"] if report.commands else []
    return "\n".join([*head, *table, *below, *notes, *(asked if report.words else []), *commands]) + "\n"


def _markdown_cell(column: MetricColumn, cell: Cell) -> str:
    words = format_cell(column, cell.summary)
    words = {1: f"**{words}**", 2: f"<u>{words}</u>"}.get(cell.place, words)
    return words + escape_markdown(cell.mark)


def _heading(column: MetricColumn) -> str:
    arrow = {"max": " ↑", "min": " ↓", None: ""}[column.direction]
    return escape_markdown(column.heading) + arrow


def render_latex(report: Report) -> str:
    """The table as LaTeX with booktabs: best bold, second underlined, published rows below a rule."""
    columns = report.show.columns
    arrows = {"max": r" $\uparrow$", "min": r" $\downarrow$", None: ""}
    heads = [escape_latex(column.heading) + arrows[column.direction] for column in columns]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escape_latex(report.show.claim or report.show.title)}}}",
        rf"\label{{tab:{''.join(c if c.isalnum() and c.isascii() else '-' for c in report.show.title)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(columns) + 1)}}}",
        r"\toprule",
        " & ".join(["", *heads, r"$\Delta$ (pp)"]) + r" \\",
        r"\midrule",
    ]
    kind = "control"
    for line in report.lines:
        if (line.kind != kind and line.kind in ("external", "refused")) or kind == "control" != line.kind:
            lines.append(r"\midrule")
        kind = line.kind
        name = escape_latex(line.name) + (r" (published)" if kind == "external" else "")
        if kind == "refused":
            lines.append(rf"{name} & \multicolumn{{{len(columns) + 1}}}{{l}}{{refused}} \\")
            continue
        cells = [_latex_cell(column, line.cells.get(column.name, Cell())) for column in columns]
        delta = escape_latex(format_difference(_accuracy(report, line)))
        lines.append(" & ".join([name, *cells, re.sub(r"-(?=\d)", "$-$", delta)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\par\smallskip\footnotesize"]
    lines += [escape_latex(" ".join(list_legend(report))), r"\end{table}"]
    return "\n".join(lines) + "\n"


def _latex_cell(column: MetricColumn, cell: Cell) -> str:
    words = escape_latex(format_cell(column, cell.summary))
    words = {1: rf"\textbf{{{words}}}", 2: rf"\underline{{{words}}}"}.get(cell.place, words)
    return words + (f"$^{{{cell.mark}}}$" if "*" in cell.mark else escape_latex(cell.mark))


def _accuracy(report: Report, line: Row) -> Difference | None:
    return line.cells.get(report.accuracy, Cell()).difference


def render_csv(report: Report) -> str:
    """All statistics, a line for each row and measurement."""
    heads = ["row", "kind", "measurement", "n", "mean", "std", "iqm", "iqm_low", "iqm_high"]
    heads += ["difference", "low", "high", "p", "p_holm", "within_margin", "front_share", "note"]
    return _csv(heads, (_statistics(line, name, cell) for line in report.lines for name, cell in _of(line)))


def _of(line: Row) -> Iterable[tuple[str, Cell]]:
    return line.cells.items() or [("", Cell())]


def _statistics(line: Row, name: str, cell: Cell) -> list[object]:
    s, d = cell.summary, cell.difference
    found: list[object] = [line.name, line.kind, name]
    found += [s.n, s.mean, s.std, s.iqm, s.low, s.high] if s else [0, *[None] * 5]
    found += [d.mean, d.low, d.high, d.p, d.adjusted, d.within] if d else [None] * 6
    return [*found, line.front, line.note]


def render_runs_csv(runs: Sequence[Run]) -> str:
    """Every run with its figures and the settings in which runs differ."""
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    varied = list_varying_settings(runs)
    heads = ["id", "row", "seed", "host", "command", *names, *varied]
    lines = (
        [
            r.id,
            r.row,
            r.seed,
            r.host,
            r.command,
            *(r.metrics.get(n) for n in names),
            *(r.settings.get(k) for k in varied),
        ]
        for r in runs
    )
    return _csv(heads, lines)


def list_varying_settings(runs: Sequence[Run]) -> list[str]:
    """The settings that not all runs share, in their order."""
    distinct = list({id(run.settings): run.settings for run in runs}.values())
    names = dict.fromkeys(name for settings in distinct for name in settings)
    return [name for name in names if len({settings.get(name) for settings in distinct}) > 1]


def _csv(heads: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(["" if value is None else value for value in line] for line in lines)
    return out.getvalue()
