"""The record of a run in `record.json`, which MLflow mirrors."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from lightexp.core.columns import build_metrics_table
from lightexp.core.errors import BadInput, format_reason
from lightexp.core.json_text import encode_json, parse_json
from lightexp.core.metrics import Metric, Note
from lightexp.core.moved import resolve_targets
from lightexp.core.primary_metric import read_primary
from lightexp.core.regular_files import read_bytes, replace_file
from lightexp.core.table import Table, render_html, render_text

RECORD_FILE = "record.json"
FORMAT = 2
_RUN_ID = re.compile(r"\w[\w. -]*")
_METRIC_DEFAULTS = {field.name: field.default for field in fields(Metric) if field.default is not MISSING}
Status = Literal["running", "done", "failed", "interrupted", "killed"]


class NewerRecord(ValueError):
    """A record of a format that this version of lightexp does not know."""


@dataclass
class StageRecord:
    """The record of one stage.

    Attributes:
        name: The stage's name in the pipeline.
        key: Store key of its artifact.
        from_store: Whether the artifact was in the store already.
        seconds: How long the artifact took to make, in this run or an earlier one.
        metrics: Metrics of the file that would ship after it.
        facts: What `Stage.apply` returned.
        notes: Explanations by metric: why it is missing, or why it has its value.
    """

    name: str
    key: str
    from_store: bool
    seconds: float
    metrics: list[Metric] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, measured: Sequence[Metric | Note]) -> None:
        """Add metrics and notes of a measurement."""
        self.metrics += [metric for metric in measured if isinstance(metric, Metric)]
        self.notes |= {note.name: note.text for note in measured if isinstance(note, Note)}

    def replace(self, measured: Sequence[Metric | Note]) -> None:
        """Enter metrics and notes that were measured later, in place of all those of the same names."""
        names = {item.name for item in measured}
        self.metrics = [metric for metric in self.metrics if metric.name not in names]
        self.notes = {name: text for name, text in self.notes.items() if name not in names}
        self.add(measured)

    def metric(self, name: str) -> float | None:
        """Return the value of a metric; None where it was not measured."""
        return next((metric.value for metric in self.metrics if metric.name == name), None)

    @property
    def values(self) -> dict[str, float]:
        """The metrics' values by name."""
        return {metric.name: metric.value for metric in self.metrics}


@dataclass
class Record:
    """The record of a run: its command, settings, environment and metrics.

    Attributes:
        id: Name of the run's folder.
        name: Readable name: model, data set and pipeline.
        status: `running` until it has ended.
        reason: Why it failed, in one line.
        command: Shell command that runs it again.
        config: The resolved config.
        varied: The overrides that made this run differ from the default.
        dataset: Name, and count and digest of each split.
        control: The stage whose file is the float32 control.
        keys: Store keys of all artifacts that it uses: of its stages, their teachers and calibration sets.
        stages: Records of its stages, in order.
        waived: Kinds of invariants that the run may break, with what became of each.
        environment: Versions, host, threads, git commit.
        started: Seconds since the epoch.
        ended: Seconds since the epoch; None while it is running.
        files: Paths by role, relative to the run's folder where they are inside it.
        mlflow: Tracking URI, experiment and run id, or the reason why there are none.
        tags: Names of what the run belongs to, such as its ablation and row.
        format: Version of the file format.
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
        """Metrics of the shipped file by name."""
        return self.stages[-1].values if self.stages else {}

    @property
    def figures(self) -> dict[str, float]:
        """Deprecated name of `metrics`, kept for scripts and notebooks of version 0.1."""
        return self.metrics

    @property
    def entry_keys(self) -> list[str]:
        """Store keys of all artifacts that it uses, each once, also where the record has no `keys`."""
        return list(dict.fromkeys([*self.keys, *(stage.key for stage in self.stages)]))

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
        notes = [f"waived {kind}: {text}" for kind, text in self.waived.items()]
        return build_metrics_table("Stage", rows, caption, notes, read_primary(self.dataset))

    def table(self) -> str:
        """Return the run's name, its table and what was waived, as lines to print."""
        return render_text(self.build_table())

    def _repr_html_(self) -> str:
        """Return the same as HTML, which a notebook shows."""
        return render_html(self.build_table())

    @property
    def notes(self) -> dict[str, str]:
        """Explanations of the shipped file's metrics, by metric."""
        return self.stages[-1].notes if self.stages else {}

    def locate_model(self, folder: Path) -> Path:
        """Return the path of the `.tflite` that the run ships.

        Args:
            folder: The run's folder.

        Raises:
            BadInput: If the run is not done, or the folder does not hold the file.
        """
        if self.status == "done" and not self.files:
            raise BadInput(
                f"{folder} is done, and its model is not in it. If it is a trial, this prints the command that makes "
                "it: lightexp search --pick NUMBER. If it is a run of another host, this fetches the model: "
                f"lightexp store pull {self.id} store.remote=s3://BUCKET/PREFIX"
            )
        if self.status != "done" or "model" not in self.files:
            raise BadInput(f"{folder} is {self.status} and ships no model. Give the folder of a run that is done.")
        return folder / self.files["model"]

    def to_json(self, **options: Any) -> str:
        """Return the content of `record.json`, by default in one line of ASCII; `options` are those of `json.dumps`."""
        return encode_json(vars(self), default=asdict, **options)

    def write(self, folder: Path) -> None:
        """Write `record.json` into a folder, atomically."""
        path = folder / RECORD_FILE
        text = self.to_json(indent=1, ensure_ascii=False) + "\n"
        # A file name that is no text in this locale holds lone surrogates, which then become JSON's own escapes.
        replace_file(path, text.encode(errors="backslashreplace"))


def _upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a record of format 1, of which nothing is checked yet, in the present format.

    In format 1 stages hold `figures`, and the config names classes by modules that have moved since.
    """
    upgraded = {**values, "config": resolve_targets(values.get("config")), "format": FORMAT}
    if isinstance(values.get("stages"), list):
        upgraded["stages"] = [_rename_figures(stage) for stage in values["stages"]]
    return upgraded


def _rename_figures(stage: Any) -> Any:
    if not isinstance(stage, dict):
        return stage
    return {("metrics" if name == "figures" else name): value for name, value in stage.items()}


def parse_record(values: Any) -> Record:
    """Return the record that the JSON of `record.json` describes, of the present format or an earlier one.

    Metrics that are not finite, which earlier versions wrote, are left out.

    Raises:
        ValueError: If an entry is missing or of a wrong type.
        NewerRecord: If a newer version of lightexp wrote the record.
    """
    from lightexp.core.record_schema import check_record  # imports pydantic, which no process needs that only writes

    if not isinstance(values, dict):
        raise ValueError(f"it must be a mapping. Received: {values!r:.60}")
    if values.get("format") == 1:
        values = _upgrade(values)
    if values.get("format") != FORMAT:
        number = values.get("format")
        error = NewerRecord if isinstance(number, int) and number > FORMAT else ValueError
        raise error(f"it is of format {number!r:.60}; this lightexp reads formats 1 and {FORMAT}")
    check_record(values)
    return build_record(values)


def build_record(values: dict[str, Any]) -> Record:
    """Return the record of JSON values of the present format, which are not checked: this program has written them."""
    stages = [StageRecord(**{**s, "metrics": _parse_metrics(s["metrics"])}) for s in values["stages"]]
    return Record(**{**values, "stages": stages})


def _parse_metrics(metrics: list[dict[str, Any]]) -> list[Metric]:
    return [_parse_metric(m) for m in metrics if m["value"] is not None and math.isfinite(m["value"])]


def _parse_metric(values: dict[str, Any]) -> Metric:
    """Return `Metric(**values)`, in a third of the time that its constructor takes; a report reads millions."""
    metric = Metric.__new__(Metric)
    vars(metric).update(_METRIC_DEFAULTS)
    vars(metric).update(values, value=float(values["value"]))
    return metric


def read_record(folder: Path) -> Record:
    """Read the record in a run's folder, of the present format or an earlier one.

    Raises:
        BadInput: If there is no record, it cannot be read, or a newer version of lightexp wrote it.
    """
    path = folder / RECORD_FILE
    try:
        return parse_record(parse_json(read_bytes(path)))
    except (FileNotFoundError, NotADirectoryError):
        problem = "is no folder" if folder.exists() else "does not exist"
        problem = f"holds no {RECORD_FILE}" if folder.is_dir() else problem
        raise BadInput(f"{folder} {problem}. Give a run's folder, such as outputs/runs/RUN.") from None
    except RecursionError:
        problem = "it is nested without end"
    except (OSError, ValueError, OverflowError) as error:
        problem = format_reason(error)
    raise BadInput(f"{path} is not a record: {problem}. Run it again, or leave its folder out.")


def is_run_id(text: str) -> bool:
    """Return whether a text can be a run's id: the name of a folder, and no path."""
    return _RUN_ID.fullmatch(text) is not None


def read_run(folder: Path) -> Record:
    """Read the record of a run in the folder of all runs, and check that it is this folder's own.

    Whoever wrote the record may be a stranger: nothing derives a path from its id, or sends the folder anywhere,
    before this check.

    Raises:
        BadInput: See `read_record`; also if the record's id is not the folder's name, or if the folder is a link to a
            place outside the folder of all runs.
    """
    record = read_record(folder)
    place = folder.absolute()
    if record.id != place.name or not is_run_id(record.id):
        raise BadInput(
            f"{folder / RECORD_FILE} holds the id {record.id!r}, and a run's id is the name of its folder, of letters, "
            "digits, '.', '_', '-' and spaces. Give the folder its own name back, or leave it out."
        )
    if place.resolve().parent != place.parent.resolve():
        raise BadInput(f"{folder} is a link that leads out of {folder.parent}. Copy the run there, or leave it out.")
    return record
