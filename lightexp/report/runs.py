"""From records to what reports need of them, small enough that ten thousand fit into memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightexp.core.config import flatten
from lightexp.core.defaults import drop_defaults
from lightexp.core.errors import BadInput
from lightexp.core.record import Record, StageRecord, read_record
from lightexp.core.records import list_run_folders

_NOT_SETTINGS = ("seed", "paths", "runtime", "tracking", "measure", "hydra", "plugins")


@dataclass(frozen=True, slots=True)
class RunStage:
    """One stage of a run.

    Attributes:
        name: Of the stage.
        figures: What was measured of the file after it.
        history: Its curves, a value an epoch.
        facts: What else the stage said of its work.
    """

    name: str
    metrics: dict[str, float]
    history: dict[str, list[float]]
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        id: Of its record.
        row: The row that it belongs to.
        seed: Its seed.
        figures: The shipped file's.
        control: The figures of its own float32 control.
        versions: Of the evaluators, by figure.
        steps: Its stages.
        settings: Its config as dotted names and values, without what changes no result.
        command: That runs it again.
        host: Where it ran.
        timed_on: Where its latency was measured.
        data: Name of its data set, and digest of each split.
        classes: Of the data.
        waived: What became of each invariant that it was told to break.
        started: Seconds since the epoch.
        seconds: How long it took.
        environment: Versions, processor, threads, commit.
        tags: What it belongs to.
    """

    id: str
    row: str
    seed: int
    metrics: dict[str, float]
    control: dict[str, float]
    versions: dict[str, int]
    steps: tuple[RunStage, ...]
    settings: dict[str, str]
    command: str
    host: str
    timed_on: str
    data: tuple[str, ...]
    classes: int
    waived: dict[str, str]
    started: float
    seconds: float
    environment: dict[str, Any]
    tags: dict[str, str] = field(default_factory=dict)


def iterate_records(
    places: Iterable[Path | str], complaints: list[str], wanted: Callable[[Record], bool] = lambda _: True
) -> Iterator[Record]:
    """Reads the records below some folders, one after another, oldest folder first.

    Args:
        places: Outputs folders, their `runs/`, or folders of single runs.
        complaints: Gets a line for each record that cannot be used: half-written, of another format, or of a run that
            has not been finished.
        wanted: Which sound records to yield, or to complain of. Defaults to all.

    Raises:
        BadInput: If a place is not a folder.
    """
    seen: set[Path] = set()
    for place in places:
        for folder in list_run_folders(place):
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            try:
                record = read_record(folder)
            except BadInput as error:
                complaints.append(str(error))
                continue
            if not wanted(record):
                continue
            if record.status != "done":
                reason = f": {record.reason}" if record.reason and record.reason != record.status else ""
                complaints.append(f"{folder.name} is left out, it is {record.status}{reason}")
            elif not record.stages or not record.metrics:
                complaints.append(f"{folder.name} is left out, nothing was measured")
            else:
                yield record


class RunReader:
    """Makes runs of records; equal settings and environments are kept once."""

    def __init__(self) -> None:
        """Has read nothing yet."""
        self._kept: dict[str, dict[str, Any]] = {}

    def run(self, record: Record, row: str) -> Run:
        """What reports need of a record."""
        shipped = record.stages[-1]
        control = next((stage for stage in record.stages if stage.name == record.control), record.stages[0])
        splits = record.dataset.get("splits") or {}
        digests = [f"{name} {facts.get('digest')}" for name, facts in sorted(splits.items())]
        environment = record.environment
        return Run(
            id=record.id,
            row=row,
            seed=int(record.config.get("seed", 0)),
            metrics=_values(shipped),
            control=_values(control),
            versions=self._once({f.name: f.version for f in shipped.metrics}),
            steps=tuple(self._step(stage) for stage in record.stages),
            settings=self._once(flatten_settings(record.config)),
            command=record.command,
            host=str(environment.get("host", "")),
            timed_on=str(environment.get("timed_on", environment.get("host", ""))),
            data=(str(record.dataset.get("name", "")), *digests),
            classes=int(record.dataset.get("classes") or 0),
            waived=record.waived,
            started=record.started,
            seconds=(record.ended or record.started) - record.started,
            environment=self._once({k: v for k, v in environment.items() if k != "folder"}),
            tags=record.tags,
        )

    def _step(self, stage: StageRecord) -> RunStage:
        facts = {k: v for k, v in stage.facts.items() if k != "history"}
        return RunStage(stage.name, _values(stage), stage.facts.get("history") or {}, self._once(facts))

    def _once(self, values: dict[str, Any]) -> dict[str, Any]:
        return self._kept.setdefault(json.dumps(values, sort_keys=True, default=str), values)


def _values(stage: StageRecord) -> dict[str, float]:
    return {figure.name: figure.value for figure in stage.metrics}


def flatten_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """What of a config decides a result, but for the seed, as dotted names and values as text."""
    named = flatten({k: v for k, v in config.items() if k not in _NOT_SETTINGS})
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in named}


def identify_settings(config: Mapping[str, Any], plugins: Sequence[str] = ()) -> dict[str, str]:
    """Return those settings of `flatten_settings` that differ from their defaults.

    Records of the same settings have the same ones, also if a setting with a default has been added in between.

    Args:
        config: The config of a record or of a row.
        plugins: Packages outside `lightexp` whose classes may be imported. Defaults to none.
    """
    return flatten_settings(drop_defaults(config, tuple(plugins)))


def name_rows(records: Iterable[Record]) -> list[Run]:
    """Runs of any kind by row: those whose settings are equal but for the seed are one row.

    A row is named by its ablation's row where it has one, else by the overrides that made it, else by model, data set
    and stages. Of two runs of one row and seed the later counts.
    """
    reader = RunReader()
    found: dict[tuple[str, int], Run] = {}
    names: dict[str, str] = {}  # of settings and data
    taken: Counter[str] = Counter()
    for record in records:
        words = " ".join(w for w in record.varied if not w.startswith(("seed=", "paths.", "tracking", "runtime.")))
        wanted = record.tags.get("row") or words or record.name
        mark = json.dumps([flatten_settings(record.config), record.dataset], sort_keys=True)
        if mark not in names:
            taken[wanted] += 1
            names[mark] = wanted if taken[wanted] == 1 else f"{wanted} ({taken[wanted]})"
        run = reader.run(record, names[mark])
        found[run.row, run.seed] = run
    return list(found.values())
