"""Terminal output of `lightexp ablate --plan` and `lightexp report`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lightexp.ablation.runs import AblationRun, Backlog
from lightexp.ablation.spec import AblationSpec
from lightexp.cli.printing import make_console
from lightexp.core.columns import MISSING
from lightexp.core.formatting import escape_markup, format_duration
from lightexp.report.compare import Comparison
from lightexp.report.data import Report
from lightexp.report.documents import build_table
from lightexp.report.table import Table, build_rich_table

_MAX_ROWS = 200  # of a report; what is longer is read in its page
_WIDE = 180  # characters of a line where the output is no terminal


def print_backlog(spec: AblationSpec, runs: list[AblationRun], backlog: Backlog, workers: int) -> None:
    """Print what running an ablation would do: a line for each row, the shared stages, and the estimated time.

    Args:
        spec: The ablation.
        runs: All of its runs.
        backlog: What is missing.
        workers: Number of worker processes that the estimate assumes.
    """
    console = make_console(width=_choose_width())
    missing = {run.row_and_seed for run in backlog.missing}
    lines = []
    for row in spec.rows:
        if row.refused:
            lines.append([row.name, MISSING, MISSING, f"refused: {row.refused}", MISSING])
            continue
        own = [run for run in runs if run.row is row]
        waiting = [run for run in own if run.row_and_seed in missing]
        stages = " ".join(_describe_stage(node.name, node.key, backlog) for node in own[0].plan.nodes)
        seconds = [backlog.seconds[n.key] for run in waiting for n in run.plan.nodes if n.key in backlog.seconds]
        lines.append([row.name, str(len(own) - len(waiting)), str(len(waiting)), stages, _estimate(seconds, 1)])
    table = Table.from_text(["Row", "Runs there", "To run", "Stages", "Estimate"], lines, spec.name)
    console.print(build_rich_table(table, framed=True))
    console.print(
        f"{len(runs)} runs: {len(backlog.done)} are done, {len(backlog.missing)} to do, {len(backlog.untimed)} to be "
        f"timed. Stages to make: {len(backlog.seconds)}, {len(backlog.shared)} of them for several rows; in the store: "
        f"{len(backlog.stored)}.",
        soft_wrap=True,
    )
    for line in list_thread_notes(backlog):
        console.print(line, soft_wrap=True)
    total = _estimate(list(backlog.seconds.values()), workers)
    console.print(f"Estimate with workers={workers}: {total}", soft_wrap=True)
    if spec.show.cost:
        console.print(f"The file says: {escape_markup(spec.show.cost)}", soft_wrap=True)
    console.print("Nothing was run. Leave out --plan to run it.")


def list_thread_notes(backlog: Backlog) -> list[str]:
    """Return a line for each number of threads with which finished runs computed and others will not."""
    return [
        f"{len(runs)} of the finished runs computed with runtime.threads={threads}, and would now with "
        f"{runs[0].settings.threads}: their files may differ in bytes. Add runtime.threads={threads} to base, or set "
        "paths.outputs=FOLDER to run all of them again."
        for threads, runs in sorted(backlog.other_threads.items())
    ]


def _choose_width() -> int | None:
    """Return the width of a console on standard output; None lets rich ask the terminal."""
    return None if sys.stdout.isatty() else _WIDE


def _describe_stage(name: str, key: str, backlog: Backlog) -> str:
    """Return a stage's name with `(there)` where the store has it, or with the number of rows that share it."""
    if key in backlog.shared:
        return f"{name}(x{backlog.shared[key]})"
    return name if key in backlog.seconds else f"{name}(there)"


def _estimate(seconds: Sequence[float | None], workers: int) -> str:
    """Return the time for some stages in words.

    Args:
        seconds: Duration of each stage; None where no earlier record has it.
        workers: Number of workers that share the stages.
    """
    if not seconds:
        return "nothing to train"
    recorded = [value for value in seconds if value is not None]
    parts = [format_duration(sum(recorded) / workers)] if recorded else []
    if len(recorded) < len(seconds):
        parts.append(f"{len(seconds) - len(recorded)} stages have no earlier record")
    return ", and ".join(parts)


def print_report(report: Report) -> None:
    """Print a report's table, its legend, and what a reviewer would ask."""
    console = make_console(width=_choose_width())
    table = build_table(report, lambda row: row.label if row.kind == "infeasible" else row.name, _MAX_ROWS)
    console.print(build_rich_table(table))
    for note in table.notes:
        console.print(escape_markup(note), soft_wrap=True)
    for question in report.questions:
        console.print(f"[yellow]reviewer[/yellow] {escape_markup(question)}", soft_wrap=True)


def print_comparison(comparison: Comparison) -> None:
    """Print the settings in which two sets of runs differ, then their metrics."""
    console = make_console(width=_choose_width())
    if comparison.settings.rows:
        console.print(build_rich_table(comparison.settings))
    console.print(build_rich_table(comparison.metrics))
