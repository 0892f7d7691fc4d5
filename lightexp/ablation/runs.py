"""Runs of an ablation: each row with each seed, which of them have a record, and what is missing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from lightexp.ablation.rows import AblationRow
from lightexp.ablation.spec import AblationSpec
from lightexp.core.errors import BadInput
from lightexp.core.fingerprint import compute_key
from lightexp.core.json_text import encode_json
from lightexp.core.record import Record, read_run
from lightexp.core.records import RUNS, list_run_folders
from lightexp.runner.compose import compose_settings
from lightexp.runner.plan import Node, Plan, list_nodes
from lightexp.runner.run import Runner
from lightexp.runner.settings import Settings
from lightexp.stages.train import TrainingStage


@dataclass(frozen=True)
class AblationRun:
    """One row with one seed.

    Attributes:
        ablation: The ablation's name.
        row: The row.
        seed: The seed.
        settings: The run's settings.
        plan: The run's stages and their keys.
    """

    ablation: str
    row: AblationRow
    seed: int
    settings: Settings
    plan: Plan

    @property
    def overrides(self) -> list[str]:
        """Overrides that the run is composed from."""
        return [*self.row.overrides, f"seed={self.seed}"]

    @property
    def keys(self) -> list[str]:
        """Keys of the stages, in their order."""
        return [node.key for node in self.plan.nodes]

    @cached_property
    def nodes(self) -> list[Node]:
        """Stages, and the trainings of their teachers, each after those that it needs."""
        own = set(self.keys)
        return [n for n in list_nodes(self.plan.nodes) if n.key in own or isinstance(n.stage, TrainingStage)]

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the record."""
        return make_tags(self.ablation, self.row.name, self.settings)

    @property
    def identity(self) -> str:
        """Text that is equal for runs with the same result, whatever ablation and row they are of."""
        return _identify_run(self.seed, self.keys, self.tags, self.settings.waive)

    @property
    def row_and_seed(self) -> tuple[str, int]:
        """The row's name and the seed."""
        return self.row.name, self.seed


def make_tags(ablation: str, row: str, settings: Settings) -> dict[str, str]:
    """Return the tags of a row's runs.

    Args:
        ablation: The ablation's name.
        row: The row's name.
        settings: The row's settings; the tag `measured` identifies their measurements, versions included.
    """
    return {"ablation": ablation, "row": row, "measured": compute_key(list(settings.measure.values()))[:12]}


def plan_runs(spec: AblationSpec, runner: Runner) -> list[AblationRun]:
    """Plan every row that is not refused with every seed, the runs of one seed together.

    Args:
        spec: The ablation.
        runner: Plans the runs.

    Raises:
        BadInput: If a row does not suit its data.
    """
    runs = []
    for seed in spec.seeds:
        for row in spec.rows:
            if row.refused is not None:
                continue
            settings = compose_with_seed(row, seed)
            try:
                plan, _ = runner.plan(settings)
            except BadInput as error:
                raise BadInput(f"{spec.path}: row '{row.name}': {error}") from None
            runs.append(AblationRun(spec.name, row, seed, settings, plan))
    return runs


def compose_with_seed(row: AblationRow, seed: int) -> Settings:
    """Compose a row's settings with a seed, which other settings may be derived from."""
    return compose_settings([*row.overrides, f"seed={seed}"])


class RunIndex:
    """Records of ablations' finished runs below an outputs folder, and how long their stages took.

    Attributes:
        read_folders: Names of the folders whose runs had ended when they were read, or that are not read.
    """

    def __init__(self, outputs: Path, skipped: Iterable[str] = ()) -> None:
        """Read nothing yet.

        Args:
            outputs: The folder of all outputs.
            skipped: Names of run folders that are not read. Defaults to none.
        """
        self._runs = outputs / RUNS
        self.read_folders = set(skipped)
        self._records: dict[str, Record] = {}
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)

    def refresh(self) -> None:
        """Read the records of runs that have ended since the last time."""
        if not self._runs.is_dir():
            return
        for folder in list_run_folders(self._runs, self.read_folders):
            try:
                record = read_run(folder)
            except BadInput:
                continue  # incomplete: another process may be writing it
            if record.status == "running":
                continue
            self.read_folders.add(folder.name)
            for stage in record.stages:
                self._seconds[_identify_stage(record.config, stage.name)].append(stage.seconds)
            if record.status == "done" and "ablation" in record.tags:
                keys = [stage.key for stage in record.stages]
                waived = record.config["pipeline"].get("waive") or []
                self._records[_identify_run(record.config["seed"], keys, record.tags, waived)] = record

    def find(self, identity: str) -> Record | None:
        """Return the latest record of a run with an identity, of any ablation; None without one."""
        return self._records.get(identity)

    def estimate_seconds(self, run: AblationRun, stage: str) -> float | None:
        """Return the mean duration of a stage with the same settings and any seed; None if none has a record."""
        seconds = self._seconds.get(_identify_stage(run.settings.written, stage))
        return fmean(seconds) if seconds else None


def _identify_run(seed: int, keys: Sequence[str], tags: Mapping[str, str], waived: Sequence[str]) -> str:
    return encode_json([seed, list(keys), tags.get("measured", ""), sorted(waived)])


def _identify_stage(config: dict[str, Any], stage: str) -> str:
    settings = config["pipeline"]["stages"].get(stage)
    return encode_json([config["dataset"], config["model"], settings], sort_keys=True)


def needs_latency(run: AblationRun, record: Record | None) -> bool:
    """Return whether the settings ask for the shipped file's latency and the record lacks it.

    Args:
        run: The run.
        record: Its record; None if it has not run yet.
    """
    if not any(measurement.is_timing for measurement in run.settings.measure.values()):
        return False
    return record is None or not any(name.startswith("latency/") for name in record.metrics)


@dataclass(frozen=True)
class Backlog:
    """What is missing of an ablation.

    Attributes:
        done: Runs with a record.
        missing: Runs without.
        other_threads: Done runs that computed with another number of threads than they would now, by that number.
        untimed: Runs whose latency is to be measured, missing ones included.
        stored: Keys of the missing runs' stages that are in the store.
        shared: Number of missing runs that need a stage, by the keys of stages that are not in the store and that more
            than one run needs.
        seconds: Estimated duration of a stage, by the keys of all stages that are not in the store; None where no stage
            with such settings has a record.
        kinds: Settings without the seed, and name, of the same stages.
    """

    done: list[AblationRun]
    missing: list[AblationRun]
    other_threads: dict[int, list[AblationRun]]
    untimed: list[AblationRun]
    stored: set[str]
    shared: dict[str, int]
    seconds: dict[str, float | None]
    kinds: dict[str, tuple[str, str]] = field(default_factory=dict)


def find_backlog(runs: Iterable[AblationRun], index: RunIndex, is_stored: Callable[[str], bool]) -> Backlog:
    """Look up which runs and stages are missing.

    Args:
        runs: All runs of the ablation.
        index: The records, refreshed.
        is_stored: Returns whether a key is in the store.
    """
    records = [(run, index.find(run.identity)) for run in runs]
    missing = [run for run, record in records if record is None]
    stored: set[str] = set()
    seconds: dict[str, float | None] = {}
    kinds: dict[str, tuple[str, str]] = {}
    counts: Counter[str] = Counter()
    for run in missing:
        own = set(run.keys)
        for node in run.nodes:
            if node.key not in seconds and (node.key in stored or is_stored(node.key)):
                stored.add(node.key)
                continue
            counts[node.key] += 1
            if node.key in own:
                seconds[node.key] = index.estimate_seconds(run, node.name)
                kinds[node.key] = _identify_stage(run.settings.written, node.name), node.name
            elif node.key not in seconds:  # of another pipeline: this run's settings say nothing of it
                seconds[node.key], kinds[node.key] = None, (node.key, node.name)
    other_threads: defaultdict[int, list[AblationRun]] = defaultdict(list)
    for run, record in records:
        now = run.settings.threads
        if record is not None and (before := record.environment.get("threads", now)) != now:
            other_threads[before].append(run)
    return Backlog(
        done=[run for run, record in records if record is not None],
        missing=missing,
        other_threads=dict(other_threads),
        untimed=[run for run, record in records if needs_latency(run, record)],
        stored=stored,
        shared={key: count for key, count in counts.items() if count > 1},
        seconds=seconds,
        kinds=kinds,
    )
