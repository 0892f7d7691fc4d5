"""what rows of an ablation save by sharing stages, on the workers of several hosts.

300 rows are planned and put in order as `lightexp ablate` does it, and its source of tasks hands them out to the
workers, which only pretend to work: a stage takes as long as it took in `experiments/results/03_order_matters`, in
virtual time. What could be saved is the time of all rows, each trained alone, less that of each different stage once.
"""

from __future__ import annotations

import csv
import hashlib
import heapq
import itertools
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import yaml
from common import Result

from lightexp.ablation.runs import AblationRun, RunIndex, find_backlog, plan_runs
from lightexp.ablation.spec import read_spec
from lightexp.ablation.task_source import AblationOrder, AblationSource
from lightexp.ablation.tasks import AblationTask, list_run_tasks
from lightexp.core.record import Record, StageRecord
from lightexp.core.records import RUNS
from lightexp.core.store import Store
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner

RECORDED = Path(__file__).parents[2] / "results" / "03_order_matters" / "runs.csv"
ROWS_OF_STAGES = {
    "train": ("control", None),
    "qat": ("qat alone", "control"),
    "prune": ("prune, plain qat", "qat alone"),
    "cluster": ("cluster, plain qat", "qat alone"),
}
"""Rows whose training times differ by that of one stage."""
HOSTS, WORKERS = 5, 4
RATES = [round(0.001 + 0.0001 * number, 4) for number in range(10)]
GRIDS = {"sparsity": [0.5, 0.6, 0.7, 0.8, 0.9], "clusters": [8, 16, 32, 64]}


def measure(smoke: bool) -> list[Result]:
    """Simulate the ablation and compare compute and time with the best that is possible."""
    recorded = read_stage_seconds()
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder) / "outputs"
        runs = plan_rows(Path(folder), outputs, smoke)
        seconds = {node.key: pick_seconds(recorded[node.name], node.key) for run in runs for node in run.plan.nodes}
        backlog = find_backlog(runs, RunIndex(outputs), Store(outputs / "store").has)
        tasks = list_run_tasks(backlog)
        print(f"sharing: {len(runs)} rows, {len(tasks)} tasks, {len(seconds)} different stages", file=sys.stderr)
        simulation = Simulation(runs, tasks, seconds, outputs)
        end = simulation.run()
    separate = sum(seconds[key] for run in runs for key in run.keys)
    best = sum(seconds.values())
    bound = max(best / (HOSTS * WORKERS), *(sum(seconds[key] for key in run.keys) for run in runs))
    note = (
        f"{len(runs)} rows on {HOSTS} hosts of {WORKERS} workers: {separate / 3600:.1f} h of training separately, "
        f"{simulation.computed / 3600:.2f} h together, {best / 3600:.2f} h at best"
    )
    ended = f"ends after {end / 60:.1f} min; no schedule can before {bound / 60:.1f} min"
    return [
        Result("saved of what can be", [separate - simulation.computed], [separate - best], "s", 0.9, True, note),
        Result("time to the end against the lower bound", [end], [bound], "s", 1.2, False, ended),
    ]


def read_stage_seconds() -> dict[str, list[float]]:
    """Return how long each kind of stage took, once for each seed."""
    times: defaultdict[str, dict[str, float]] = defaultdict(dict)
    with RECORDED.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            times[row["row"]][row["seed"]] = float(row["time/train_s"])
    without: dict[str | None, Mapping[str, float]] = {**times, None: defaultdict(float)}
    return {
        stage: [max(1.0, total - without[less][seed]) for seed, total in times[row].items()]
        for stage, (row, less) in ROWS_OF_STAGES.items()
    }


def pick_seconds(recorded: Sequence[float], key: str) -> float:
    """Return one of the recorded durations, always the same for a stage."""
    return recorded[int(hashlib.sha256(key.encode()).hexdigest(), 16) % len(recorded)]


def plan_rows(folder: Path, outputs: Path, smoke: bool) -> list[AblationRun]:
    """Plan the rows of a grid over the pipelines of that table."""
    rates = {"pipeline.stages.qat.learning_rate": RATES[:2] if smoke else RATES}
    prune = {"pipeline.stages.prune.sparsity": GRIDS["sparsity"][:1] if smoke else GRIDS["sparsity"]}
    cluster = {"pipeline.stages.cluster.k": GRIDS["clusters"][:1] if smoke else GRIDS["clusters"]}
    no_prune, no_cluster = ("~stage@pipeline.stages.prune", "~stage@pipeline.stages.cluster")
    rows = {
        "control": [no_prune, no_cluster, "~stage@pipeline.stages.qat"],
        "qat": {"base": [no_prune, no_cluster], "grid": {name: rates[name][:9] for name in rates}},
        "prune": {"base": [no_cluster], "grid": {**prune, **rates}},
        "cluster": {"base": [no_prune], "grid": {**cluster, **rates}},
        "both": {"grid": {**prune, **cluster, **rates}},
    }
    base = ["dataset=digits", "model=small_cnn", "measure=quick", "tracking=none", "pipeline=prune_cluster_qat"]
    values = {"claim": "A simulation.", "control": "control", "seeds": [0], "rows": rows}
    path = folder / "sharing.yaml"
    path.write_text(yaml.safe_dump({**values, "base": [*base, f"paths.outputs={outputs}"]}), encoding="utf-8")
    return plan_runs(read_spec(path, []), Runner(SilentReporter()))


class Simulation:
    """Workers in virtual time. What they make appears in the store and among the runs, as other hosts see it."""

    def __init__(
        self, runs: Sequence[AblationRun], tasks: Sequence[AblationTask], seconds: Mapping[str, float], outputs: Path
    ) -> None:
        """Start nothing yet.

        Args:
            runs: The runs of the rows.
            tasks: Their tasks, in the order in which they are to be claimed.
            seconds: How long each stage takes, by its key.
            outputs: The folder that all hosts share.
        """
        self.computed = 0.0
        self._seconds, self._outputs = seconds, outputs
        self._runs = {(run.row.name, run.seed): run for run in runs}
        self._tasks = {task.id: task for task in tasks}
        self._store = Store(outputs / "store")
        index = RunIndex(outputs)
        self._sources = []
        for host in range(HOSTS):
            order = AblationOrder([asdict(task) for task in tasks], str(outputs), str(outputs / f"call-{host}"))
            self._sources += [AblationSource(order, lambda task: {}, index) for _ in range(WORKERS)]

    def run(self) -> float:
        """Let the workers claim tasks until all have ended, and return when the last one ends."""
        now, numbers = 0.0, itertools.count()
        idle = list(self._sources)
        working: list[tuple[float, int, AblationSource, str]] = []
        while True:
            waiting = []
            for source in idle:
                claimed = source.claim()
                if claimed is None:
                    waiting.append(source)
                    continue
                seconds = sum(self._seconds[key] for key in self._list_missing(self._tasks[claimed.id]))
                self.computed += seconds
                heapq.heappush(working, (now + seconds, next(numbers), source, claimed.id))
            if not working:
                return now
            now, _, source, task_id = heapq.heappop(working)
            self._complete(self._tasks[task_id])
            source.give_back(task_id)  # drops the lock; the task is done, so that nobody claims it again
            idle = [*waiting, source]

    def _list_missing(self, task: AblationTask) -> list[str]:
        """Return the keys of the stages that a worker has to make for a task."""
        keys = [task.id] if task.kind == "stage" else self._runs[task.row, task.seed].keys
        return [key for key in keys if not self._store.has(key)]

    def _complete(self, task: AblationTask) -> None:
        """Write what a task leaves: an entry of the store, or a record."""
        if task.kind == "stage":
            self._store.ensure(task.id, task.name, lambda folder: {})
            self._store.release()
            return
        run = self._runs[task.row, task.seed]
        folder = self._outputs / RUNS / task.id[:16]
        stages = [StageRecord(node.name, node.key, False, self._seconds[node.key]) for node in run.plan.nodes]
        record = Record(folder.name, task.name, "", dict(run.settings.plain), [], {}, 0.0, "done", stages=stages)
        record.tags = task.tags
        folder.mkdir(parents=True)
        record.write(folder)
