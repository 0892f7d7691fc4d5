"""Show runs on a terminal: progress on standard error, results on standard output."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from lightexp.cli.next_command import suggest_next
from lightexp.cli.printing import make_console
from lightexp.core.board_fit import build_fit_table
from lightexp.core.columns import ESTIMATE_NOTE, MISSING, build_metrics_table
from lightexp.core.data import Data
from lightexp.core.formatting import escape_markup
from lightexp.core.latency_quality import MARK
from lightexp.core.primary_metric import find_value, read_primary
from lightexp.core.record import Record, StageRecord
from lightexp.core.records import RUNS
from lightexp.core.sensitivity import KINDS, SensitivityTable, format_level
from lightexp.core.store import Place
from lightexp.core.store_entry import KEY_CHARS
from lightexp.report import heatmap
from lightexp.report.table import Table, TableColumn, build_rich_table, print_table
from lightexp.runner.plan import Plan
from lightexp.runner.progress import ProgressReporter
from lightexp.runner.settings import Settings

_PLACE_TEXTS: dict[Place, str] = {"local": "there", "remote": "in the remote store"}
_WIDTH_WITHOUT_TERMINAL = 150  # characters
_PERCENT_METRICS = ("accuracy", "sparsity")  # ends of names
_MAX_JOBS = 200  # of a sweep, in the terminal
_LINE_INTERVAL_S = 2.0  # between lines of progress, where no live line can be drawn


class Terminal(ProgressReporter):
    """Show runs on a terminal, or as plain lines where there is none."""

    def __init__(self) -> None:
        """Open the consoles."""
        # A copy of the descriptor: standard error is redirected while C++ libraries print to it.
        error_file = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="replace")
        weakref.finalize(self, error_file.close)
        self._err = make_console(error_file, choose_width(sys.stderr))
        self._out = make_console(width=choose_width(sys.stdout))

    def say(self, message: str) -> None:
        """Show one line."""
        self._err.print(escape_markup(message), soft_wrap=True)

    @contextmanager
    def stage(self, name: str, number: int, of: int) -> Iterator[_LiveLine]:
        """Show a live line for stage `name`, the `number`th `of` all, while the context lasts."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.fields[position]}{task.description}"),
            BarColumn(bar_width=16),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[message]}"),
        )
        position = f"[{number}/{of}] " if of > 1 else ""
        with Progress(*columns, console=self._err, transient=True, disable=not self._err.is_terminal) as bar:
            yield _LiveLine(bar, name, escape_markup(position), self)

    def finished(self, stage: StageRecord) -> None:
        """Show a line for a stage whose artifact exists."""
        origin = "from the store" if stage.from_store else f"{stage.seconds:.1f} s"
        history = stage.facts.get("history", {})
        last_values = {name: history[name][-1] for name in history if name == "sparsity" or _is_validation_metric(name)}
        self._err.print(f"[green]✓[/green] {escape_markup(stage.name):<12} {origin:<15} {_format_metrics(last_values)}")
        if note := stage.facts.get("note"):
            self.say(f"  {stage.name}: {note}")

    def record(self, record: Record, outputs: Path) -> None:
        """Show a finished run: its table, where its files are, and which command may follow.

        Args:
            record: The run's record.
            outputs: The folder of all outputs.
        """
        self._print_metrics(replace(record.build_table(), caption=""))
        if table := heatmap.find_last_table(record):
            self._show_sensitivity(table)
        if boards := build_fit_table(record):
            print_table(self._out, boards)
        for kind, reason in record.waived.items():
            self._out.print(f"[yellow]waived {escape_markup(kind)}[/yellow]: {escape_markup(reason)}", soft_wrap=True)
        for note in dict.fromkeys(record.notes.values()):
            names = ", ".join(name for name in record.notes if record.notes[name] == note)
            self._out.print(f"[yellow]{escape_markup(names)}[/yellow]: {escape_markup(note)}", soft_wrap=True)
        folder = outputs / RUNS / record.id
        lines = {
            "Model": str(folder / record.files["model"]),
            "Files": str(folder),
            "MLflow": _describe_place(record),
            **_suggest_commands(record),
        }
        for heading, text in lines.items():
            self._out.print(f"{heading:<7} {escape_markup(text)}", soft_wrap=True)

    def sweep(self, records: list[Record], table: Path) -> None:
        """Show a sweep's jobs, each with the metrics of the file that it would ship.

        Args:
            records: The jobs that are done; of many, the best are shown.
            table: The file that lists all of them.
        """
        shown = sorted(records, key=_rank_job)[:_MAX_JOBS] if len(records) > _MAX_JOBS else records
        self._print_metrics(build_sweep_table(shown))
        if len(records) > len(shown):
            text = f"These are the best {len(shown)} of {len(records):,} jobs; {table} lists all."
            self._out.print(escape_markup(text), soft_wrap=True)
        self._out.print(
            "The jobs of a sweep do not look at the test split; a run outside a sweep does, such as the best:"
        )
        self._out.print(f"Next    {escape_markup(min(records, key=_rank_job).command)}", soft_wrap=True)

    def _print_metrics(self, table: Table) -> None:
        """Print a table of metrics, and which of its numbers are estimates or doubtful."""
        print_table(self._out, table)
        for note in table.notes:
            if note.startswith(MARK) or note == ESTIMATE_NOTE:
                self._out.print(f"[yellow]{escape_markup(note)}[/yellow]", soft_wrap=True)

    def plan(
        self,
        plan: Plan,
        settings: Settings,
        data: Data,
        places: Mapping[str, Place],
        layers: list[list[tuple[str, str]]],
    ) -> None:
        """Show what a run would do, and to which layers.

        Args:
            plan: The run's plan.
            settings: The run's settings.
            data: The data set, as the model sees it.
            places: Where the stages' artifacts are, by key; those that are nowhere are to be made.
            layers: Of each stage, the layers that it changes and how; empty for all of them.
        """
        rows = []
        for node, changes in zip(plan.nodes, layers, strict=True):
            name = node.name + (" (control)" if node is plan.control else "")
            state = _PLACE_TEXTS[places[node.key]] if node.key in places else "to be made"
            changed = "\n".join(f"{layer}: {change}" for layer, change in changes) or "all"
            rows.append([name, type(node.stage).__name__, node.key[:KEY_CHARS], state, changed])
        table = Table.from_text(["Stage", "Method", "Key", "Store", "Layers"], rows, settings.name)
        self._out.print(build_rich_table(table, framed=True))
        self._out.print(data.describe(), markup=False)
        self._out.print("Nothing was run. Leave out --plan to run it.")

    def _show_sensitivity(self, table: SensitivityTable) -> None:
        """Show the validation metric with each layer alone at each level, in a table for each kind of change."""
        for kind in KINDS:
            if levels := table.list_levels(kind):
                columns: list[TableColumn | str] = ["One layer alone"]
                columns += [TableColumn(format_level(kind, level), wrap=False) for level in levels]
                rows = []
                for name, row in table.layers.items():
                    values = (row.levels.get(kind, {}).get(level) for level in levels)
                    number = "{:.2%}" if table.primary.is_share else "{:.4g}"
                    rows.append([name, *(MISSING if value is None else number.format(value) for value in values)])
                self._out.print(build_rich_table(Table.from_text(columns, rows)))


def build_sweep_table(records: list[Record]) -> Table:
    """Return the table of a sweep: for each job what it has varied, and the metrics of the file that it would ship."""
    shared: set[str] = set()
    if len(records) > 1:
        shared = set.intersection(*(set(record.varied) for record in records))
    rows = []
    for record in records:
        name = " ".join(override for override in record.varied if override not in shared)
        rows.append((name, record.metrics))
    primary = read_primary(records[0].dataset)
    return build_metrics_table("Job", rows, primary=primary)


def _rank_job(record: Record) -> tuple[float, float]:
    """Return the sort key of a job: the best primary metric comes first, of equal ones the smallest file."""
    primary = read_primary(record.dataset)
    value = find_value(record.metrics, primary)
    quality = -math.inf if value is None else primary.to_quality(value)
    return -quality, record.metrics.get("size/file_bytes", math.inf)


def _is_validation_metric(name: str) -> bool:
    return name.startswith("val_") and name != "val_loss"


class _LiveLine:
    """A stage's live line; see `lightexp.core.protocols.Progress`."""

    def __init__(self, bar: Progress, name: str, position: str, terminal: Terminal) -> None:
        self._bar, self._name, self._terminal = bar, name, terminal
        self._task = bar.add_task(escape_markup(name), total=None, position=position, message="")
        self._start = self._last_line = time.monotonic()

    def step(self, done: float, total: float, **metrics: float) -> None:
        """Show how many epochs are done, and the metrics after the last one."""
        message = ""
        if metrics:
            message = f"epoch {min(int(done) + 1, int(total))}/{int(total)}  {_format_metrics(metrics)}"
        self._bar.update(self._task, completed=done, total=total, message=escape_markup(message))
        if self._bar.disable and metrics and done == int(done):
            self._print_line(int(done), int(total), metrics)

    def say(self, message: str) -> None:
        """Show a message in the live line."""
        self._bar.update(self._task, message=escape_markup(message))

    def _print_line(self, done: int, total: int, metrics: dict[str, float]) -> None:
        """Print a line of progress, unless the last one is too recent."""
        now = time.monotonic()
        if now - self._last_line <= _LINE_INTERVAL_S and done != total:
            return
        self._last_line = now
        seconds_left = (now - self._start) / done * (total - done)
        self._terminal.say(
            f"  {self._name}  epoch {done}/{total}  {_format_metrics(metrics)}  {seconds_left:.0f} s left"
        )


def _format_metrics(metrics: dict[str, float]) -> str:
    texts = []
    for name, value in metrics.items():
        if name != "val_loss":
            texts.append(f"{name} {value:.1%}" if name.endswith(_PERCENT_METRICS) else f"{name} {value:.3f}")
    return "  ".join(texts)


def _describe_place(record: Record) -> str:
    """Return where MLflow shows a run, or why it does not."""
    place = record.mlflow
    if "run_id" not in place:
        return f"not there: {place.get('missing')}"
    text = f"run {place['run_id']} in experiment {place['experiment']}"
    return text + (f" (not all of it: {place['missing']})" if "missing" in place else "")


def _suggest_commands(record: Record) -> dict[str, str]:
    """Return the commands that may follow a run, by their headings."""
    commands = {"Again": record.command}
    if record.mlflow.get("uri", "").startswith("sqlite"):
        places = [override for override in record.varied if override.startswith(("paths.outputs=", "tracking.uri="))]
        commands["Look"] = shlex.join(["lightexp", "ui", *places])
    if following := suggest_next(record):
        commands["Next"] = following
    return commands


def choose_width(stream: object) -> int | None:
    """Return how many characters `rich` may put on a line; None if the stream is a terminal, which rich asks."""
    is_terminal = getattr(stream, "isatty", lambda: False)()
    return None if is_terminal else _WIDTH_WITHOUT_TERMINAL
