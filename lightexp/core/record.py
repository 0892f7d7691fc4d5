"""The record of a run: `record.json`, the truth that MLflow mirrors."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightexp.core.columns import build_metrics_table
from lightexp.core.errors import BadInput
from lightexp.core.metrics import Metric, Note
from lightexp.core.moved import resolve_targets
from lightexp.core.table import Table, render_html, render_text

RECORD_FILE = "record.json"
FORMAT = 2
Status = Literal["running", "done", "failed", "interrupted", "killed"]


@dataclass
class StageRecord:
    """What one stage did.

    Attributes:
        name: The stage's key in the pipeline.
        key: The store's key of its artifact.
        from_store: Whether it was there already.
        seconds: How long it took to make, whenever that was.
        figures: What was measured of the file that would ship after it.
        facts: What the stage said of its work.
        notes: What is to be said of figures, by their names: why one is missing, or why it is as it is.
    """

    name: str
    key: str
    from_store: bool
    seconds: float
    metrics: list[Metric] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, measured: Sequence[Metric | Note]) -> None:
        """Enters what was measured."""
        self.metrics += [figure for figure in measured if isinstance(figure, Metric)]
        self.notes |= {note.name: note.words for note in measured if isinstance(note, Note)}

    def metric(self, name: str) -> float | None:
        """A figure's value, or None where it was not measured."""
        return next((f.value for f in self.metrics if f.name == name), None)

    @property
    def values(self) -> dict[str, float]:
        """The metrics' values by name."""
        return {metric.name: metric.value for metric in self.metrics}


@dataclass
class Record:
    """A run from its command to its figures.

    Attributes:
        id: The run's folder name.
        name: For people: model, data set and pipeline.
        status: `running` until it has ended.
        reason: Why it failed, in one line.
        command: The shell command that runs it again.
        config: The whole config, resolved.
        varied: The overrides that made this run differ from the default.
        dataset: Name, and count and digest of each split.
        control: The stage whose file is the float32 control.
        keys: The store's keys of all that it stands on: its stages, their teachers and calibration sets.
        stages: In order.
        waived: Invariants that this run was told to break, with what became of each.
        environment: Versions, host, threads, git commit.
        started: Seconds since the epoch.
        ended: Seconds since the epoch, or None.
        files: Role to path, relative to the run's folder where inside it.
        mlflow: Tracking URI, experiment and run id, or why there are none.
        tags: What the run belongs to, such as its ablation and row.
    """

    id: str
    name: str
    command: str
    config: dict[str, Any]
    varied: list[str]
    environment: dict[str, Any]
    started: float
    status: Status = "running"
    reason: str | None = None
    control: str | None = None
    keys: list[str] = field(default_factory=list)
    dataset: dict[str, Any] = field(default_factory=dict)
    stages: list[StageRecord] = field(default_factory=list)
    waived: dict[str, str] = field(default_factory=dict)
    ended: float | None = None
    files: dict[str, str] = field(default_factory=dict)
    mlflow: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def metrics(self) -> dict[str, float]:
        """The shipped file's figures by name."""
        return self.stages[-1].values if self.stages else {}

    @property
    def figures(self) -> dict[str, float]:
        """Deprecated name of `metrics`, kept for scripts and notebooks of version 0.1."""
        return self.metrics

    @property
    def table_stages(self) -> list[StageRecord]:
        """The stages as tables list them: the control first, then the others in the order they ran."""
        return sorted(self.stages, key=lambda stage: stage.name != self.control)

    def build_table(self) -> Table:
        """Return the run's table: a row for each stage, the control first; the status and the waivers around it."""
        rows = [
            (f"{stage.name} (control)" if stage.name == self.control else stage.name, stage.values)
            for stage in self.table_stages
        ]
        caption = f"{self.name}: {self.status}" + (f" ({self.reason})" if self.reason else "")
        return build_metrics_table("Stage", rows, caption, [f"waived {k}: {text}" for k, text in self.waived.items()])

    def table(self) -> str:
        """Return the run's name, its table and what was waived, as lines to print."""
        return render_text(self.build_table())

    def _repr_html_(self) -> str:
        """Return the same as HTML, which a notebook shows."""
        return render_html(self.build_table())

    @property
    def notes(self) -> dict[str, str]:
        """What is to be said of the shipped file's figures, by their names."""
        return self.stages[-1].notes if self.stages else {}

    def write(self, folder: Path) -> None:
        """Writes `record.json` into `folder`, whole or not at all."""
        path = folder / RECORD_FILE
        draft = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        draft.write_text(json.dumps(vars(self), default=asdict, indent=1, ensure_ascii=False) + "\n")
        draft.replace(path)


def _upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a record of format 1 in the present format.

    In format 1 stages hold `figures`, and the config names classes by modules that have moved since.
    """
    stages = [
        {("metrics" if name == "figures" else name): value for name, value in s.items()} for s in values["stages"]
    ]
    return {**values, "stages": stages, "config": resolve_targets(values["config"]), "format": FORMAT}


def parse_record(values: dict[str, Any]) -> Record:
    """A record from the JSON types that `dataclasses.asdict` makes of it."""
    stages = [StageRecord(**{**s, "metrics": [Metric(**m) for m in s["metrics"]]}) for s in values["stages"]]
    return Record(**{**values, "stages": stages})


def read_record(folder: Path) -> Record:
    """Reads a run's record.

    Raises:
        BadInput: If there is none, it cannot be read, or another version of lightexp wrote it.
    """
    path = folder / RECORD_FILE
    try:
        values = json.loads(path.read_text())
        if values.get("format") == 1:
            values = _upgrade(values)
        if values.get("format") != FORMAT:
            raise BadInput(f"{path} is of format {values.get('format')}. This lightexp reads formats 1 and {FORMAT}.")
        return parse_record(values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{path} is not a record: {error}. Run it again, or leave its folder out.") from None
