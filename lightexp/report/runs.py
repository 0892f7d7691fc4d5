"""Runs as reports need them, read from records: small enough that a hundred thousand fit into memory."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightexp.core.config import flatten
from lightexp.core.defaults import drop_defaults
from lightexp.core.errors import BadInput
from lightexp.core.json_text import encode_json
from lightexp.core.primary_metric import PrimaryMetric, read_primary
from lightexp.core.record import Record, StageRecord, read_record
from lightexp.core.records import list_run_folders
from lightexp.report.metric_values import MetricValues

_NOT_SETTINGS = ("seed", "paths", "store", "runtime", "tracking", "measure", "hydra", "plugins")
_CONSTANTS = {True: "true", False: "false", None: "null"}
_DIGEST_BYTES = 16
_NOT_NAMING = ("seed=", "paths.", "store.", "tracking", "runtime.")  # overrides that change no result


@dataclass(frozen=True, slots=True)
class RunStage:
    """One stage of a run.

    Attributes:
        name: Name of the stage.
        metrics: Metrics of the file after the stage.
        history: Training curves by name, a value for each epoch; NaN where that was not finite.
        facts: What else the stage reported.
    """

    name: str
    metrics: Mapping[str, float]
    history: dict[str, Sequence[float]]
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        id: Id of its record.
        row: Row that it belongs to.
        seed: Its seed.
        metrics: Metrics of the shipped file.
        control: Metrics of the run's own float32 control.
        versions: Version of the evaluator of each metric.
        stages: Its stages in order.
        settings: The settings that decide the result, as dotted names and values; see `flatten_settings`.
        command: Command that runs it again.
        host: Host on which it ran.
        timed_on: Host on which its latency was measured.
        data: Name of its data set, and the digest of each split.
        primary: The metric that its task is judged by.
        waived: What became of each invariant that the run was allowed to break.
        started: Start, in seconds since the epoch.
        seconds: Duration in seconds.
        environment: Versions, processor, threads, commit.
        tags: What the run belongs to, such as its ablation.
    """

    id: str
    row: str
    seed: int
    metrics: Mapping[str, float]
    control: Mapping[str, float]
    versions: dict[str, int]
    stages: tuple[RunStage, ...]
    settings: dict[str, str]
    command: str
    host: str
    timed_on: str
    data: tuple[str, ...]
    primary: PrimaryMetric
    waived: dict[str, str]
    started: float
    seconds: float
    environment: dict[str, Any]
    tags: dict[str, str] = field(default_factory=dict)


def iterate_records(
    folders: Iterable[Path | str], problems: list[str], is_wanted: Callable[[Record], bool] = lambda _: True
) -> Iterator[Record]:
    """Yield the records of finished runs below some folders, folder by folder, oldest run first.

    Args:
        folders: Outputs folders, their `runs/` folders, or folders of single runs.
        problems: Receives a line for each record that cannot be used because it is half-written, has another format,
            or belongs to a run that has not finished.
        is_wanted: Selects the valid records to yield or to report as a problem. Defaults to all.

    Raises:
        BadInput: If one of `folders` is not a folder.
    """
    visited: set[object] = set()
    for parent in folders:
        for folder in list_run_folders(parent):
            place = _identify_folder(folder)
            if place in visited:
                continue
            visited.add(place)
            try:
                record = read_record(folder)
            except BadInput as error:
                problems.append(str(error))
                continue
            if not is_wanted(record):
                continue
            if record.status != "done":
                reason = f": {record.reason}" if record.reason and record.reason != record.status else ""
                problems.append(f"{folder.name} is left out, it is {record.status}{reason}")
            elif not record.stages or not record.metrics:
                problems.append(f"{folder.name} is left out, nothing was measured")
            else:
                yield record


def _identify_folder(folder: Path) -> object:
    """Return what is equal for two paths of the same folder."""
    try:
        status = os.stat(folder)
    except OSError:
        return folder
    return status.st_dev, status.st_ino


def make_no_runs_error(title: str, problems: Sequence[str]) -> BadInput:
    """Return the error of a report without a run, with the first of the problems that may have been the reason.

    Args:
        title: What the report covers.
        problems: A line for each record that cannot be used.
    """
    reason = f" {len(problems):,} cannot be used; the first: {problems[0]}" if problems else ""
    message = f"{title}: there is no finished run to report. Run it first: lightexp ablate or run."
    return BadInput(message + reason)


class RunReader:
    """Converter of records to runs that keeps equal texts, settings, environments and stages in memory only once."""

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}
        self._shared: dict[bytes, dict[str, Any]] = {}  # by digests of dictionaries as they are
        self._equal: dict[bytes, dict[str, Any]] = {}  # by digests of dictionaries in a fixed order
        self._first_equal: dict[int, dict[str, Any]] = {}  # by ids of shared dictionaries
        self._places: dict[tuple[str, ...], dict[str, int]] = {}  # by names of metrics
        self._metrics: dict[tuple[int, bytes], MetricValues] = {}  # by ids of places, and digests of values
        self._parts: dict[tuple[str, bytes], list[tuple[str, str]]] = {}  # by names and digests of parts of configs
        self._settings: dict[bytes, dict[str, str]] = {}  # by ids of settings

    def run(self, record: Record, row: str) -> Run:
        """Return the run of a record.

        Args:
            record: Record of a finished run with at least one measured stage.
            row: Name of the row that the run belongs to.
        """
        shipped = record.stages[-1]
        stages = tuple(self._convert_stage(stage) for stage in record.stages)
        control = next((stage for stage in stages if stage.name == record.control), stages[0])
        splits = record.dataset.get("splits") or {}
        digests = [f"{name} {facts.get('digest')}" for name, facts in sorted(splits.items())]
        environment = record.environment
        return Run(
            id=record.id,
            row=row,
            seed=int(record.config.get("seed", 0)),
            metrics=stages[-1].metrics,
            control=control.metrics,
            versions=self.share({metric.name: metric.version for metric in shipped.metrics}),
            stages=stages,
            settings=self._share_settings(record.config),
            command=record.command,
            host=str(environment.get("host", "")),
            timed_on=str(environment.get("timed_on", environment.get("host", ""))),
            data=self._share_value((str(record.dataset.get("name", "")), *digests)),
            primary=self._share_value(read_primary(record.dataset)),
            waived=self.share(record.waived),
            started=record.started,
            seconds=(record.ended or record.started) - record.started,
            environment=self.share({k: v for k, v in environment.items() if k not in ("folder", "phones")}),
            tags=_intern_texts(record.tags),
        )

    def _convert_stage(self, stage: StageRecord) -> RunStage:
        facts = {name: value for name, value in stage.facts.items() if name != "history"}
        history = stage.facts.get("history") or {}
        curves = {name: array("d", (math.nan if v is None else v for v in values)) for name, values in history.items()}
        return RunStage(
            sys.intern(stage.name), self._share_metrics(stage.values), self.share(curves), self.share(facts)
        )

    def share(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the first dictionary that was equal to this one, with its entries in the same order."""
        digest = _compute_digest(repr(values))
        if digest not in self._shared:
            self._shared[digest] = _intern_texts(values)
        return self._shared[digest]

    def find_equal(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the first dictionary that was equal to this one, whatever the order of its entries."""
        shared = self.share(values)
        if id(shared) not in self._first_equal:
            digest = _compute_digest(encode_json(values, sort_keys=True, default=str))
            self._first_equal[id(shared)] = self._equal.setdefault(digest, shared)
        return self._first_equal[id(shared)]

    def _share_metrics(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Return the first metrics that were equal to these."""
        names, values = tuple(metrics), array("d", metrics.values())
        if names not in self._places:
            self._places[names] = {sys.intern(name): place for place, name in enumerate(names)}
        places = self._places[names]
        digest = hashlib.blake2b(values, digest_size=_DIGEST_BYTES).digest()
        return self._metrics.setdefault((id(places), digest), MetricValues(places, values))

    def _share_settings(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Return `flatten_settings(config)`, the same dictionary for equal settings."""
        settings = self._list_settings({name: value for name, value in config.items() if name not in _NOT_SETTINGS})
        identity = array("Q", sorted(map(id, settings))).tobytes()
        if identity not in self._settings:
            self._settings[identity] = dict(settings)
        return self._settings[identity]

    def _list_settings(self, part: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
        """Return the settings in a part of a config; most parts are equal to those of another record."""
        settings = []
        for name, value in part.items():
            place = f"{prefix}{name}"
            identity = place, _compute_digest(repr(value))
            if identity not in self._parts:
                if isinstance(value, Mapping) and value:
                    self._parts[identity] = self._list_settings(value, f"{place}.")
                else:
                    self._parts[identity] = [self._share_value((sys.intern(place), sys.intern(_encode_setting(value))))]
            settings += self._parts[identity]
        return settings

    def _share_value(self, value: Any) -> Any:
        return self._values.setdefault(value, value)


def _compute_digest(text: str) -> bytes:
    """Return a digest of a text, used in its place where a hundred thousand texts would take much memory."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES).digest()


def _intern_texts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dictionary whose names and texts are in memory only once, however many records hold them."""
    return {sys.intern(n): sys.intern(value) if type(value) is str else value for n, value in values.items()}


def flatten_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that decide a result, without the seed, as dotted names and values as text.

    Args:
        config: Config of a record or of a row.
    """
    named = flatten({name: value for name, value in config.items() if name not in _NOT_SETTINGS})
    return {name: _encode_setting(value) for name, value in named}


def _encode_setting(value: Any) -> str:
    """Return a text as it is, and another value as JSON; `json` takes ten times as long for plain numbers."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return _CONSTANTS[value]
    is_plain = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return repr(value) if is_plain else encode_json(value)


def identify_settings(config: Mapping[str, Any], plugins: Sequence[str] = ()) -> dict[str, str]:
    """Return those settings of `flatten_settings` that differ from their defaults.

    Records of the same settings have the same ones, also if a setting with a default has been added in between. The
    devices that files are compared with are not among them: they change no file.

    Args:
        config: The config of a record or of a row.
        plugins: Packages outside `lightexp` whose classes may be imported. Defaults to none.
    """
    of_files = {name: value for name, value in config.items() if name != "deploy"}
    return flatten_settings(drop_defaults(of_files, tuple(plugins)))


def name_rows(records: Iterable[Record]) -> list[Run]:
    """Return the runs of any records, with the same row for those whose settings differ in the seed alone.

    A row is named by its ablation's row, or by the overrides that made it, or by model, data set and stages. Of two
    runs of the same row and seed the later one counts.

    Args:
        records: Records of finished runs, oldest first.
    """
    reader = RunReader()
    runs: dict[tuple[str, int], Run] = {}
    row_names: dict[tuple[int, int], str] = {}  # by settings and data
    uses: Counter[str] = Counter()
    for record in records:
        overrides = " ".join(override for override in record.varied if not override.startswith(_NOT_NAMING))
        name = record.tags.get("row", "").strip() or overrides or record.name
        run = reader.run(record, "")
        identity = id(run.settings), id(reader.find_equal(record.dataset))  # of equal ones, only one is in memory
        if identity not in row_names:
            uses[name] += 1
            row_names[identity] = name if uses[name] == 1 else f"{name} ({uses[name]})"
        row = row_names[identity]
        runs[row, run.seed] = replace(run, row=row)
    return list(runs.values())
