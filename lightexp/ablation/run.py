"""Run what is missing of an ablation, in worker processes of this host or in the jobs of a Hydra launcher."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightexp.ablation.runs import Backlog, RunIndex
from lightexp.ablation.task_source import LOCKS, AblationOrder, AblationSource
from lightexp.ablation.tasks import AblationTask, list_latency_tasks, list_run_tasks
from lightexp.ablation.time_left import TimeLeft
from lightexp.core.columns import find_column
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.formatting import format_duration
from lightexp.core.store import Store
from lightexp.execution.launcher import Launcher, LauncherPool, join_as_worker, launch_origin
from lightexp.execution.pool import LocalPool, PoolSettings, PoolView
from lightexp.runner.launcher import find_node_folder
from lightexp.tracking.run_groups import CALL, make_group_tag

WORKER = "lightexp.ablation.worker"
_LOGS = "ablations/workers"
_LINE_INTERVAL_S = 10.0
ReportLine = Callable[[str], None]


@dataclass(frozen=True)
class AblationPool:
    """The processes that run an ablation.

    Attributes:
        outputs: The folder of all outputs.
        index: The records in it, which is refreshed.
        report: Called with each line for the user.
        workers: Number of processes. Defaults to 1.
        launcher: Starts them. Defaults to None: this process does.
        remote_store: The remote store's address. Defaults to None: there is none.
        call: The command's own name. Defaults to a new one.
    """

    outputs: Path
    index: RunIndex
    report: ReportLine
    workers: int = 1
    launcher: Launcher | None = None
    remote_store: str | None = None
    call: str = field(default_factory=lambda: f"call-{uuid.uuid4().hex}")

    def run(self, backlog: Backlog) -> dict[tuple[str, int], str]:
        """Run the missing runs, shared stages first.

        Args:
            backlog: Names the runs.

        Returns:
            Why runs have failed, by row and seed.

        Raises:
            KeyboardInterrupt: If the user has interrupted it. Finished stages and runs are kept.
        """
        tasks = list_run_tasks(backlog)
        failures = self._run_tasks(tasks, self.workers, RunProgress(tasks, backlog, self), self.launcher)
        return {
            (task.row, task.seed): failures[task.id] for task in tasks if task.kind == "run" and task.id in failures
        }

    def measure_latencies(self, backlog: Backlog) -> None:
        """Measure the latency of finished runs that lack it, one after another, while nothing else computes.

        Args:
            backlog: Names the runs.

        Raises:
            KeyboardInterrupt: If the user has interrupted it.
        """
        if tasks := list_latency_tasks(backlog, self.index):
            self.report(f"Measuring the latency of {len(tasks)} runs, one after another, while nothing else computes.")
            launcher = self.launcher if self.launcher is not None and self.launcher.shares_folder else None
            self._run_tasks(tasks, 1, TaskProgress(tasks, self.report), launcher)

    def _run_tasks(
        self, tasks: list[AblationTask], workers: int, progress: TaskProgress, launcher: Launcher | None
    ) -> dict[str, str]:
        """Run tasks and return why some have failed, by task id."""
        if not tasks:
            return {}
        with self._open_call_folder() as folder:
            outputs = self.outputs.absolute()
            known_runs = sorted(self.index.read_folders)
            order = AblationOrder([asdict(task) for task in tasks], str(outputs), str(folder), known_runs=known_runs)
            if launcher is not None and not launcher.shares_folder:
                order = self._make_remote_order(order)
            source = AblationSource(order, index=self.index)
            progress.source = source
            if launcher is None or launcher.is_in_process:
                is_interrupted = LocalPool(source, _make_pool_settings(order, workers), progress).run()
                failures = source.read_failures()
            else:
                is_interrupted, failures = self._launch(launcher, source, order, workers, progress)
                source.clear()
        if is_interrupted:
            raise KeyboardInterrupt
        self.index.refresh()
        return failures

    def _make_remote_order(self, order: AblationOrder) -> AblationOrder:
        """Return an order for hosts with outputs folders of their own, whose runs are in this command's group."""
        outputs = Path(order.outputs)
        tasks = [
            {**task, "tags": {**task["tags"], CALL: self.call, **make_group_tag(task["tags"], outputs)}}
            for task in order.tasks
        ]
        return replace(order, tasks=tasks, outputs=str(find_node_folder(outputs)), remote_store=self.remote_store)

    def _launch(
        self,
        launcher: Launcher,
        source: AblationSource,
        order: AblationOrder,
        workers: int,
        progress: TaskProgress,
    ) -> tuple[bool, dict[str, str]]:
        lease = source.make_lease()
        origin = launch_origin(launcher.remote_store)
        job = partial(run_job, {"order": asdict(order), "lease": lease.key, "origin": origin})
        reason = "no job of the launcher has run it"
        is_interrupted = False
        try:
            is_interrupted = LauncherPool(source, launcher, progress, lease, drains=False).run(job, workers)
        except RunFailed as error:
            reason = str(error)
        source.refresh(at_once=True)  # the last task may have ended since the pool looked
        failures = source.read_failures()
        unfinished = [t for t in source.tasks if t.kind == "run" and source.find_metrics(t) is None]
        return is_interrupted, {**{task.id: reason for task in unfinished}, **failures}

    @contextmanager
    def _open_call_folder(self) -> Iterator[Path]:
        """Provide a folder for this command's lease and failures, and remove it at the end."""
        folder = (self.outputs / LOCKS / self.call).absolute()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def connect_launcher(launcher: Launcher, outputs: Path) -> None:
    """Connect to the cluster that runs the jobs, if there is one.

    Args:
        launcher: Starts the workers.
        outputs: The folder of all outputs.

    Raises:
        BadInput: If the cluster cannot be used, or the records of its nodes' runs would not be found.
    """
    blind_nodes = launcher.connect(outputs)
    if blind_nodes and launcher.shares_folder:
        raise BadInput(
            f"Ray's nodes {', '.join(blind_nodes)} do not see {outputs}, so that the records of their runs would not "
            "be found. Set store.remote=s3://BUCKET/PREFIX, or share the folder."
        )


def run_job(arguments: dict[str, Any], config: DictConfig) -> None:
    """Run tasks as a job of a launcher, until none is left or the command has ended.

    Args:
        arguments: The tasks and the command, as `AblationPool` describes them.
        config: The job's config, which adds nothing.
    """
    join_as_worker(arguments["origin"])
    order = AblationOrder(**arguments["order"])
    source = AblationSource(order)
    # Where no folder is shared, Ray itself ends the job with the command.
    lease = source.make_lease(arguments["lease"]) if order.remote_store is None else None
    if lease is None or lease.is_accepting:  # a cluster may have started the job after the command's end
        LocalPool(source, _make_pool_settings(order, 1), PoolView(), lease).run()


def _make_pool_settings(order: AblationOrder, workers: int) -> PoolSettings:
    return PoolSettings(WORKER, asdict(order), workers, Path(order.outputs) / _LOGS, drains=False)


class TaskProgress(PoolView):
    """Shows the failures of tasks, what their workers say, and every ten seconds what they do."""

    source: AblationSource

    def __init__(self, tasks: list[AblationTask], report: ReportLine) -> None:
        """Show nothing yet.

        Args:
            tasks: The tasks.
            report: Called with each line.
        """
        self._tasks = {task.id: task for task in tasks}
        self._report = report
        self._last_line = time.monotonic()
        self._ended = 0

    def show_message(self, text: str) -> None:
        """See `PoolView.show_message`."""
        self._say(text)

    def update(self, activities: list[str], seconds: float) -> None:
        """See `PoolView.update`."""
        if time.monotonic() - self._last_line >= _LINE_INTERVAL_S:
            working = "; ".join(activities) or "the launcher's jobs"
            self._say(f"{self._format_count()} at work: {working}{self._format_time_left()}")

    def show_outcome(self, task_id: str, outcome: dict[str, Any]) -> None:
        """See `PoolView.show_outcome`."""
        task = self._tasks[task_id]
        self._ended += 1
        if "failed" in outcome:
            self._say(f"{task.name} failed: {outcome['failed']}")
        elif task.kind == "stage":
            self._say(f"  {task.name}: made in {format_duration(outcome['metrics']['seconds'])}")

    def _say(self, line: str) -> None:
        self._last_line = time.monotonic()
        self._report(line)

    def _format_count(self) -> str:
        return f"[{self._ended}/{len(self._tasks)}]"

    def _format_time_left(self) -> str:
        return ""


class RunProgress(TaskProgress):
    """Shows each run that has ended: as a worker here reports it, or as its record appears."""

    def __init__(self, tasks: list[AblationTask], backlog: Backlog, pool: AblationPool) -> None:
        """Show nothing yet.

        Args:
            tasks: The tasks.
            backlog: What is missing.
            pool: Where the tasks run, and where lines go.
        """
        super().__init__(tasks, pool.report)
        self._primary = next((run.settings.task.primary for run in backlog.missing), "")
        self._time_left = TimeLeft(backlog, Store(pool.outputs / "store").has, pool.workers)
        self._is_launched = pool.launcher is not None and not pool.launcher.is_in_process
        self._unreported = [task for task in tasks if task.kind == "run"]
        self._total = len(self._unreported)

    def update(self, activities: list[str], seconds: float) -> None:
        """See `PoolView.update`."""
        super().update(activities, seconds)
        if not self._is_launched:
            return
        self.source.refresh()
        for task in list(self._unreported):
            if (metrics := self.source.find_metrics(task)) is not None:
                self._unreported.remove(task)
                self._report_run(task, metrics)

    def show_outcome(self, task_id: str, outcome: dict[str, Any]) -> None:
        """See `PoolView.show_outcome`."""
        task = self._tasks[task_id]
        if task.kind == "stage" and "failed" not in outcome:
            self._time_left.learn(task_id, outcome["metrics"]["seconds"])
        super().show_outcome(task_id, outcome)
        if task.kind == "run" and task in self._unreported:
            self._unreported.remove(task)
            if "failed" not in outcome:
                self._report_run(task, outcome["metrics"])

    def _report_run(self, task: AblationTask, metrics: dict[str, float]) -> None:
        for stage in self.source.find_stages(task):
            if not stage.from_store:
                self._time_left.learn(stage.key, stage.seconds)
        shown = format_metrics(metrics, self._primary)
        self._say(f"{self._format_count()} {task.name}: {shown}{self._format_time_left()}")

    def _format_count(self) -> str:
        return f"[{self._total - len(self._unreported)}/{self._total}]"

    def _format_time_left(self) -> str:
        seconds = self._time_left.estimate() if self._unreported else None
        return f"; about {format_duration(seconds)} left" if seconds else ""


def format_metrics(metrics: dict[str, float], primary: str) -> str:
    """Return a run's primary metric, on the test split if it was measured there, and file size in words, or `done`.

    Example:
        >>> format_metrics({"accuracy/test": 0.9712, "size/file_bytes": 12345}, "accuracy")
        'accuracy 97.12%, 12,345 bytes'
    """
    names = [name for name in (f"{primary}/test", f"{primary}/val") if name in metrics]
    parts = [f"{primary} {find_column(name).format(metrics[name])}" for name in names[:1]]
    if "size/file_bytes" in metrics:
        parts.append(f"{metrics['size/file_bytes']:,.0f} bytes")
    return ", ".join(parts) or "done"
