"""What an ablation has still to run: rows x seeds, less what records say has been done."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lightexp.ablation.rows import AblationRow
from lightexp.ablation.spec import AblationSpec
from lightexp.core.errors import BadInput
from lightexp.core.fingerprint import compute_key
from lightexp.core.record import Record, read_record
from lightexp.core.records import RUNS, list_run_folders
from lightexp.runner.compose import compose_settings as compose
from lightexp.runner.plan import Plan
from lightexp.runner.run import Runner
from lightexp.runner.settings import Settings


@dataclass(frozen=True)
class AblationRun:
    """One row with one seed.

    Attributes:
        study: The ablation's name.
        row: The row.
        seed: The seed.
        settings: Of the run.
        plan: Its stages and their keys.
    """

    study: str
    row: AblationRow
    seed: int
    settings: Settings
    plan: Plan

    @property
    def overrides(self) -> list[str]:
        """Those that run it."""
        return [*self.row.overrides, f"seed={self.seed}"]

    @property
    def tags(self) -> dict[str, str]:
        """What its record is found by."""
        return make_tags(self.study, self.row.name, self.settings)

    @property
    def place(self) -> tuple[str, int]:
        """Row and seed."""
        return self.row.name, self.seed


def make_tags(study: str, row: str, settings: Settings) -> dict[str, str]:
    """The tags of a row's runs; `measured` stands for how they are measured, evaluators' versions included."""
    return {"ablation": study, "row": row, "measured": compute_key(list(settings.measure.values()))[:12]}


def plan_runs(study: AblationSpec, runner: Runner) -> list[AblationRun]:
    """Plans every row that is not refused, with every seed, those of one seed together.

    Raises:
        BadInput: If a row cannot work with its data.
    """
    jobs = []
    for seed in study.seeds:
        for row in (row for row in study.rows if row.refused is None):
            settings = seed_settings(row, seed)
            try:
                plan, _ = runner.plan(settings)
            except BadInput as error:
                raise BadInput(f"{study.path}: row '{row.name}': {error}") from None
            jobs.append(AblationRun(study.name, row, seed, settings, plan))
    return jobs


def seed_settings(row: AblationRow, seed: int) -> Settings:
    """A row's settings with a seed, from which a setting may be made."""
    return compose([*row.overrides, f"seed={seed}"])


class RunIndex:
    """The runs below an outputs folder, by ablation, row and seed, and how long their stages took."""

    def __init__(self, outputs: Path) -> None:
        """Reads nothing yet."""
        self._runs = outputs / RUNS
        self._seen: set[str] = set()
        self._found: defaultdict[tuple[str, str, int], list[Record]] = defaultdict(list)
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)

    def refresh(self) -> None:
        """Reads the records that are there since the last time, and those of runs that had not ended then."""
        if not self._runs.is_dir():
            return
        for folder in list_run_folders(self._runs):
            if folder.name in self._seen:
                continue
            try:
                record = read_record(folder)
            except BadInput:
                continue  # half-written: perhaps by a process that is at it
            if record.status == "running":
                continue
            self._seen.add(folder.name)
            for stage in record.stages:
                self._seconds[_kind(record.config, stage.name)].append(stage.seconds)
            if record.status == "done" and "ablation" in record.tags:
                place = record.tags["ablation"], record.tags["row"], record.config["seed"]
                self._found[place].append(record)

    def find_record(self, run: AblationRun) -> Record | None:
        """Return the latest record of a run, with the keys and measurements that it would have now."""
        return self.find(run.study, run.row.name, run.seed, [node.key for node in run.plan.nodes], run.tags)

    def find(self, study: str, row: str, seed: int, keys: Sequence[str], tags: Mapping[str, str]) -> Record | None:
        """Return the latest record of a run.

        Args:
            study: The ablation's name.
            row: The row's name.
            seed: The run's seed.
            keys: The keys of its stages.
            tags: Its tags.
        """
        for record in reversed(self._found[study, row, seed]):
            if [stage.key for stage in record.stages] == list(keys) and record.tags == tags:
                return record
        return None

    def estimate(self, job: AblationRun, stage: str) -> float | None:
        """Mean seconds that a stage with such settings, whatever the seed, has taken; None if none was seen."""
        seen = self._seconds.get(_kind(job.settings.plain, stage))
        return fmean(seen) if seen else None


def _kind(config: dict[str, Any], stage: str) -> str:
    named = config["pipeline"]["stages"].get(stage)
    return json.dumps([config["dataset"], config["model"], named], sort_keys=True)


def needs_latency(job: AblationRun, record: Record | None) -> bool:
    """Whether the shipped file's latency is to be measured and has not been; the file may be still to be made."""
    wanted = any(measurement.is_timing for measurement in job.settings.measure.values())
    return wanted and not (record and any(name.startswith("latency/") for name in record.metrics))


@dataclass(frozen=True)
class Backlog:
    """What running an ablation would mean.

    Attributes:
        done: Jobs with a record.
        missing: Jobs without.
        timings: Jobs whose latency is still to be measured, the missing ones included.
        made: Keys of stages that are in the store.
        shared: Keys of stages that are not, by how many of the missing jobs need each, where more than one does.
        seconds: Estimate of the work, by missing stage's key; None where nothing like it has run.
    """

    done: list[AblationRun]
    missing: list[AblationRun]
    timings: list[AblationRun]
    made: set[str]
    shared: dict[str, int]
    seconds: dict[str, float | None]


def find_backlog(jobs: Iterable[AblationRun], finished: RunIndex, has: Callable[[str], bool]) -> Backlog:
    """Looks all jobs up.

    Args:
        jobs: All of them.
        finished: The records, refreshed.
        has: Whether the store has a key.
    """
    done: list[AblationRun] = []
    missing: list[AblationRun] = []
    timings: list[AblationRun] = []
    for job in jobs:
        record = finished.find_record(job)
        (missing if record is None else done).append(job)
        if needs_latency(job, record):
            timings.append(job)
    made: set[str] = set()
    seconds: dict[str, float | None] = {}
    counts: Counter[str] = Counter()
    for job in missing:
        for node in job.plan.nodes:
            if node.key in made or (node.key not in seconds and has(node.key)):
                made.add(node.key)
                continue
            counts[node.key] += 1
            seconds.setdefault(node.key, finished.estimate(job, node.name))
    return Backlog(done, missing, timings, made, {k: n for k, n in counts.items() if n > 1}, seconds)
