"""What `lightexp ablate` and `lightexp report` show on the terminal."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightexp.ablation.runs import AblationRun, Backlog
from lightexp.ablation.spec import AblationSpec
from lightexp.core.formatting import format_duration
from lightexp.report.summary import Cell, Report, format_cell
from lightexp.report.tables import format_difference, list_legend

_WIDE = 180


def console() -> Console:
    """Standard output, wide where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def print_backlog(study: AblationSpec, jobs: list[AblationRun], ahead: Backlog, workers: int) -> None:
    """What running an ablation would do: a row a line, then what is shared, and the time it would take."""
    out = console()
    table = Table("Row", "Runs there", "To run", "Stages", "Estimate", box=box.SIMPLE, title=escape(study.name))
    missing = {job.place for job in ahead.missing}
    for row in study.rows:
        if row.refused:
            table.add_row(escape(row.name), "–", "–", escape(f"refused: {row.refused}"), "–")
            continue
        own = [job for job in jobs if job.row is row]
        waiting = [job for job in own if job.place in missing]
        words = " ".join(_stage(node.name, node.key, ahead) for node in own[0].plan.nodes)
        seconds = [ahead.seconds[n.key] for job in waiting for n in job.plan.nodes if n.key in ahead.seconds]
        there = str(len(own) - len(waiting))
        table.add_row(escape(row.name), there, str(len(waiting)), escape(words), _estimate(seconds, 1))
    out.print(table)
    stages = len(ahead.seconds)
    out.print(
        f"{len(jobs)} runs: {len(ahead.done)} are there, {len(ahead.missing)} to do, {len(ahead.timings)} to be timed. "
        f"Stages to be made: {stages}, {len(ahead.shared)} of them for several rows; in the store: {len(ahead.made)}.",
        soft_wrap=True,
    )
    out.print(f"Estimate with workers={workers}: {_estimate(list(ahead.seconds.values()), workers)}", soft_wrap=True)
    if study.show.cost:
        out.print(f"The file says: {escape(study.show.cost)}", soft_wrap=True)
    out.print("Nothing was run. Leave out --plan to run it.")


def _stage(name: str, key: str, ahead: Backlog) -> str:
    """A stage, of the row's first seed: in the store, or to be made and for how many rows."""
    if key in ahead.shared:
        return f"{name}(x{ahead.shared[key]})"
    return f"{name}(there)" if key not in ahead.seconds else name


def _estimate(seconds: list[float | None], workers: int) -> str:
    known = [value for value in seconds if value is not None]
    unknown = len(seconds) - len(known)
    if not seconds:
        return "nothing to train"
    words = f"{format_duration(sum(known) / workers)}" if known else ""
    if unknown:
        rest = f"{unknown} stages have no earlier record"
        words = f"{words}, and {rest}" if words else rest
    return words


def report(made: Report) -> None:
    """A report's table, and below it what a reviewer would ask."""
    out = console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=escape(made.show.title))
    table.add_column("Row", overflow="fold")
    for column in made.show.columns:
        table.add_column(column.heading, justify="right")
    table.add_column("Δ accuracy (pp)", justify="right")
    styles = {"control": "bold", "external": "italic dim", "refused": "dim"}
    for line in made.lines:
        if line.kind == "refused":
            table.add_row(escape(line.name), "refused", style=styles["refused"])
            continue
        cells = [(column, line.cells.get(column.name, Cell())) for column in made.show.columns]
        accuracy = line.cells.get(made.accuracy, Cell()).difference
        shown = [format_cell(column, cell.summary) + cell.mark for column, cell in cells]
        table.add_row(
            escape(line.name), *map(escape, shown), escape(format_difference(accuracy)), style=styles.get(line.kind)
        )
    out.print(table)
    for words in list_legend(made):
        out.print(escape(words), soft_wrap=True)
    for words in made.words:
        out.print(f"[yellow]reviewer[/yellow] {escape(words)}", soft_wrap=True)


def beside(names: list[str], settings: list[tuple[str, str, str]], lines: list[list[str]]) -> None:
    """Two sets of runs: settings that differ, then their figures."""
    out = console()
    if settings:
        table = Table("Setting", *map(escape, names), box=box.SIMPLE_HEAD, pad_edge=False)
        for setting in settings:
            table.add_row(*map(escape, setting))
        out.print(table)
    heads = ("Row", "Measurement", *map(escape, names), "Second - first [95%]", "p")
    table = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False)
    for line in lines:
        table.add_row(*map(escape, line))
    out.print(table)
