"""The worker process of an ablation, which runs rows, shared stages and latency measurements one after another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from lightexp.ablation.task_source import AblationOrder, AblationSource
from lightexp.ablation.tasks import AblationTask
from lightexp.core import interrupt
from lightexp.core.protocols import Note, Progress
from lightexp.core.record import StageRecord, read_record
from lightexp.core.records import RUNS
from lightexp.execution.process import ParentConnection
from lightexp.execution.work import Events, run_tasks
from lightexp.runner.compose import compose_settings
from lightexp.runner.environment import read_governor, read_turbo
from lightexp.runner.execute import Executor
from lightexp.runner.plan import list_nodes
from lightexp.runner.progress import ProgressReporter, SilentReporter
from lightexp.runner.run import Runner


def main() -> None:
    """Run the tasks that the parent names until none is left; on SIGTERM, record the current one as interrupted."""
    interrupt.install_handlers()
    with suppress(KeyboardInterrupt):
        parent = ParentConnection()
        request = parent.receive()
        if request is not None:
            executor = TaskExecutor(Events(parent))
            run_tasks(AblationSource(AblationOrder(**request.content), executor.run), parent)


class TaskExecutor:
    """Runs an ablation's tasks, one at a time."""

    def __init__(self, events: Events) -> None:
        """Run nothing yet.

        Args:
            events: Takes the progress of each task.
        """
        self._reporter = _TaskReporter(events)
        self._runner = Runner(self._reporter)

    def run(self, task: AblationTask) -> dict[str, float]:
        """Run a task and return its metrics.

        Raises:
            LightexpError: If it cannot be run.
        """
        self._reporter.task_name = task.name
        if task.kind == "run":
            return self._run_row(task)
        if task.kind == "stage":
            return self._make_stage(task)
        return self._measure_latency(task)

    def _run_row(self, task: AblationTask) -> dict[str, float]:
        """Run a row with a seed, without its latency, which is measured later while nothing else computes."""
        settings = compose_settings(task.overrides)
        measurements = {n: m for n, m in settings.measure.items() if not m.is_timing}
        return self._runner.run(replace(settings, measure=measurements), task.overrides, tags=task.tags).metrics

    def _make_stage(self, task: AblationTask) -> dict[str, float]:
        """Make a stage that several rows share, and those before it; return its `seconds`."""
        settings = compose_settings(task.overrides)
        plan, data = self._runner.plan(settings)
        plan = replace(plan, nodes=tuple(node for node in list_nodes(plan.nodes) if node.key == task.id))
        store = self._runner.open_store(settings)
        with store.closing():
            stages = Executor(plan, settings, data, store, SilentReporter()).make()
        return {"seconds": stages[-1].seconds}

    def _measure_latency(self, task: AblationTask) -> dict[str, float]:
        """Measure the latency of a finished run's files and add it to the record."""
        settings = compose_settings(task.overrides)
        record = read_record(settings.outputs / RUNS / task.record_id)
        plan, data = self._runner.plan(settings)
        latency = {n: m for n, m in settings.measure.items() if m.is_timing}
        store = self._runner.open_store(settings)
        executor = Executor(plan, replace(settings, measure=latency), data, store, SilentReporter())
        with store.closing():
            stages = executor.make()
            executor.measure(stages, test=False)
            for stage, measured in zip(record.stages, stages, strict=True):
                notes = [Note(name, text) for name, text in measured.notes.items()]
                stage.replace([*measured.metrics, *notes])
            record.environment |= {"timed_on": os.uname().nodename, "governor": read_governor(), "turbo": read_turbo()}
            self._runner.publish(settings, record)
            store.share_record(record.id, record.to_json)
        return record.metrics


class _TaskReporter(ProgressReporter):
    """Passes on a run's messages."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.task_name = ""

    def announce_run(self, message: str) -> None:
        """Do nothing, since a run's folder is shown when it has ended."""

    def say(self, message: str) -> None:
        self._events.report_message(f"  {self.task_name}: {message}")

    def finished(self, stage: StageRecord) -> None:
        if not stage.from_store:
            self._events.report_message(f"  {self.task_name}: {stage.name} {stage.seconds:.1f} s")

    @contextmanager
    def stage(self, name: str, number: int, of: int) -> Iterator[Progress]:
        with SilentReporter().stage(name, number, of) as progress:
            yield progress


if __name__ == "__main__":
    main()
