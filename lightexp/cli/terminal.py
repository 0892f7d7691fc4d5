"""What the user sees: progress on standard error, results on standard output."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from lightexp.core.columns import MISSING, build_metrics_table
from lightexp.core.record import Record, StageRecord
from lightexp.core.sensitivity import KINDS, format_level
from lightexp.core.sensitivity import SensitivityTable as Sensitivities
from lightexp.report import heatmap
from lightexp.report.table import Table, TableColumn, build_rich_table, print_table
from lightexp.runner.plan import Plan
from lightexp.runner.settings import Settings

_WIDE = 150  # columns of a line where there is no terminal to ask
_PERCENT = ("accuracy", "sparsity", "val_accuracy")
_LINE_EVERY = 2.0  # seconds, where lines cannot be written over


class Terminal:
    """Show runs on a terminal, or as plain lines where there is none."""

    def __init__(self) -> None:
        # A descriptor of its own: standard error is turned away while C++ libraries chat.
        self._err = Console(file=os.fdopen(os.dup(2), "w", buffering=1), width=width(sys.stderr), highlight=False)
        self._out = Console(width=width(sys.stdout), highlight=False)

    def say(self, words: str) -> None:
        """Shows one line."""
        self._err.print(escape(words), soft_wrap=True)

    @contextmanager
    def stage(self, name: str, number: int, of: int) -> Iterator[_Line]:
        """A live line for one stage."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.fields[place]}{task.description}"),
            BarColumn(bar_width=16),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[words]}"),
        )
        place = f"[{number}/{of}] " if of > 1 else ""
        with Progress(*columns, console=self._err, transient=True, disable=not self._err.is_terminal) as bar:
            yield _Line(bar, name, escape(place), self)

    def finished(self, stage: StageRecord) -> None:
        """A line for a stage that is there."""
        how = "from the store" if stage.from_store else f"{stage.seconds:.1f} s"
        history = stage.facts.get("history", {})
        last = {k: v[-1] for k, v in history.items() if k in ("val_accuracy", "sparsity")}
        self._err.print(f"[green]✓[/green] {escape(stage.name):<12} {how:<15} {_figures(last)}")
        if note := stage.facts.get("note"):
            self.say(f"  {stage.name}: {note}")

    def record(self, record: Record, outputs: Path) -> None:
        """A finished run: the table, where things are, what to type next."""
        print_table(self._out, replace(record.build_table(), caption=""))
        if table := heatmap.find_last_table(record):
            self._sensitivity(table)
        for kind, words in record.waived.items():
            self._out.print(f"[yellow]waived {escape(kind)}[/yellow]: {escape(words)}", soft_wrap=True)
        for words in dict.fromkeys(record.notes.values()):
            names = ", ".join(name for name, note in record.notes.items() if note == words)
            self._out.print(f"[yellow]{escape(names)}[/yellow]: {escape(words)}", soft_wrap=True)
        folder = outputs / "runs" / record.id
        places = {"Model": str(folder / record.files["model"]), "Files": str(folder), "MLflow": _mlflow(record)}
        for heading, words in (places | _next(record)).items():
            self._out.print(f"{heading:<7} {escape(words)}", soft_wrap=True)

    def sweep(self, records: list[Record]) -> None:
        """A sweep's jobs, each with the figures of the file that it would ship."""
        shared = set.intersection(*(set(record.varied) for record in records)) if len(records) > 1 else set()
        rows = [(" ".join(w for w in record.varied if w not in shared), record.metrics) for record in records]
        print_table(self._out, build_metrics_table("Job", rows))
        self._out.print("The jobs of a sweep do not look at the test split; a run of its own does:")
        self._out.print(f"Next    {escape(records[-1].command)}", soft_wrap=True)

    def _sensitivity(self, table: Sensitivities) -> None:
        """Validation accuracy with each layer alone at each level, a table for each kind."""
        for kind in KINDS:
            if levels := table.levels(kind):
                columns: list[TableColumn | str] = ["One layer alone"]
                columns += [TableColumn(format_level(kind, level), wrap=False) for level in levels]
                rows = []
                for name, row in table.layers.items():
                    accuracies = (row.levels.get(kind, {}).get(level) for level in levels)
                    rows.append([name, *(MISSING if value is None else f"{value:.2%}" for value in accuracies)])
                self._out.print(build_rich_table(Table.from_text(columns, rows)))

    def plan(self, plan: Plan, settings: Settings, found: list[bool], layers: list[list[tuple[str, str]]]) -> None:
        """What a run would do, and to which layers."""
        rows = []
        for node, there, touched in zip(plan.nodes, found, layers, strict=True):
            mark = " (control)" if node is plan.control else ""
            words = "\n".join(f"{name}: {what}" for name, what in touched) or "all"
            store = "there" if there else "to be made"
            rows.append([node.name + mark, type(node.stage).__name__, node.key[:12], store, words])
        table = Table.from_text(["Stage", "Method", "Key", "Store", "Layers"], rows, settings.name)
        self._out.print(build_rich_table(table, framed=True))
        self._out.print("Nothing was run. Leave out --plan to run it.")


class _Line:
    """A stage's live line; see `lightexp.core.protocols.Progress`."""

    def __init__(self, bar: Progress, name: str, place: str, terminal: Terminal) -> None:
        self._bar, self._name, self._terminal = bar, name, terminal
        self._task = bar.add_task(escape(name), total=None, place=place, words="")
        self._start = self._said = time.monotonic()

    def step(self, done: float, total: float, **figures: float) -> None:
        words = f"epoch {min(int(done) + 1, int(total))}/{int(total)}  {_figures(figures)}" if figures else ""
        self._bar.update(self._task, completed=done, total=total, words=words)
        now = time.monotonic()
        if self._bar.disable and figures and done == int(done) and (now - self._said > _LINE_EVERY or done == total):
            self._said = now
            left = (now - self._start) / done * (total - done)
            epoch = f"epoch {int(done)}/{int(total)}"
            self._terminal.say(f"  {self._name}  {epoch}  {_figures(figures)}  {left:.0f} s left")

    def say(self, words: str) -> None:
        self._bar.update(self._task, words=words)


def _figures(figures: dict[str, float]) -> str:
    shown = (f"{k} {v:.1%}" if k in _PERCENT else f"{k} {v:.3f}" for k, v in figures.items() if k != "val_loss")
    return "  ".join(shown)


def _mlflow(record: Record) -> str:
    where = record.mlflow
    if "run_id" not in where:
        return f"not there: {where.get('missing')}"
    words = f"run {where['run_id']} in experiment {where['experiment']}"
    return words + (f" (not all of it: {where['missing']})" if "missing" in where else "")


def _next(record: Record) -> dict[str, str]:
    """What is worth typing after a run."""
    words = {"Again": record.command}
    again = shlex.split(record.command)
    flags = again[2 : len(again) - len(record.varied)]
    if record.mlflow.get("uri", "").startswith("sqlite"):
        where = [w for w in record.varied if w.startswith(("paths.outputs=", "tracking.uri="))]
        words["Look"] = shlex.join(["lightexp", "ui", *where])
    if "prune" in (stage.name for stage in record.stages):
        others = [w for w in record.varied if not w.startswith("pipeline.stages.prune.sparsity=")]
        command = ["lightexp", "run", *flags, "-m", *others, "pipeline.stages.prune.sparsity=0.5,0.8,0.95"]
        words["Next"] = shlex.join(command)
    else:
        words["Next"] = shlex.join(["lightexp", "run", *flags, "-m", *record.varied, "seed=0,1,2"])
    return words


def width(stream: object) -> int | None:
    """Columns of a line for `rich`; None where it finds out by itself."""
    return None if getattr(stream, "isatty", lambda: False)() else _WIDE
