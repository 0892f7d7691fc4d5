"""Tasks of an ablation: rows with seeds, the stages that several of them share, and latency measurements."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

from lightexp.ablation.runs import AblationRun, Backlog, RunIndex, needs_latency
from lightexp.runner.plan import list_nodes


@dataclass(frozen=True)
class AblationTask:
    """A task, of JSON types, so that a worker takes it as it is.

    Attributes:
        kind: `run` is a row with a seed, `stage` a stage that several rows share, `latency` a finished run's latency.
        id: Identifies the task on every host; a shared stage's is its key.
        name: For people.
        overrides: What the run is composed from.
        needs: Keys of shared stages that must be in the store before.
        identity: The run's identity, by which its record is found.
        row: The row's name, of a run.
        seed: The seed, of a run.
        tags: The record's tags, of a run.
        record_id: The run whose latency is to be measured.
    """

    kind: Literal["run", "stage", "latency"]
    id: str
    name: str
    overrides: list[str]
    needs: list[str] = field(default_factory=list)
    identity: str = ""
    row: str = ""
    seed: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    record_id: str = ""


def list_run_tasks(backlog: Backlog) -> list[AblationTask]:
    """Return the tasks of all missing runs, after those of the stages that several of them share."""
    return [*_list_shared_stages(backlog), *(_make_run_task(run, backlog) for run in backlog.missing)]


def list_latency_tasks(backlog: Backlog, index: RunIndex) -> list[AblationTask]:
    """Return a task for each finished run whose latency has not been measured.

    Args:
        backlog: Names the runs.
        index: Their records, refreshed.
    """
    tasks = []
    for run in backlog.untimed:
        record = index.find(run.identity)
        if record is not None and needs_latency(run, record):
            name = f"latency of {run.row.name}, seed {run.seed}"
            tasks.append(
                AblationTask("latency", f"time-{record.id}", name, run.overrides, tags=run.tags, record_id=record.id)
            )
    return tasks


def _list_shared_stages(backlog: Backlog) -> list[AblationTask]:
    """Return the shared stages, early ones first, and of equally early ones those that most runs need."""
    stages: dict[str, tuple[int, AblationTask]] = {}
    for run in backlog.missing:
        for node in run.nodes:
            if node.key in backlog.shared and node.key not in stages:
                needs = [needed.key for needed in list_nodes(node.inputs.values()) if needed.key in backlog.shared]
                name = f"{node.name}, seed {run.seed}, for {backlog.shared[node.key]} rows"
                stages[node.key] = len(needs), AblationTask("stage", node.key, name, run.overrides, needs)
    return [task for _, task in sorted(stages.values(), key=lambda pair: (pair[0], -backlog.shared[pair[1].id]))]


def _make_run_task(run: AblationRun, backlog: Backlog) -> AblationTask:
    return AblationTask(
        kind="run",
        id=hashlib.sha256(run.identity.encode()).hexdigest(),
        name=f"{run.row.name}, seed {run.seed}",
        overrides=run.overrides,
        needs=[node.key for node in run.nodes if node.key in backlog.shared],
        identity=run.identity,
        row=run.row.name,
        seed=run.seed,
        tags=run.tags,
    )
