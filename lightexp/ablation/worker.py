"""A process that runs rows; see `lightexp.ablation.task_pool`. It takes tasks and gives answers as lines of JSON."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TextIO

from lightexp.core import exceptions, interrupt
from lightexp.core.errors import LightexpError
from lightexp.core.protocols import Progress
from lightexp.core.record import StageRecord, read_record
from lightexp.core.records import RUNS
from lightexp.core.store import Store
from lightexp.execution.json_lines import claim_stdout, reply
from lightexp.runner.compose import compose_settings as compose
from lightexp.runner.execute import Executor
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner


def main() -> None:
    """Answers tasks until the input closes; if that is in the middle of one, its parent has died, and it stops."""
    interrupt.install_handlers()
    parent = claim_stdout()
    tasks: queue.Queue[dict[str, Any] | None] = queue.Queue()
    busy = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            tasks.put(json.loads(line))
        tasks.put(None)
        if busy.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()
    runner = Runner(_Said(parent))
    while (task := tasks.get()) is not None:
        busy.set()
        found = _answer(runner, task)
        busy.clear()
        reply(parent, found)
        if "interrupted" in found:
            return


def _answer(runner: Runner, task: dict[str, Any]) -> dict[str, Any]:
    try:
        work = {"run": _run, "stage": _stage, "time": _time}[task["call"]]
        return {"metrics": work(runner, task)}
    except KeyboardInterrupt:
        return {"interrupted": True}
    except LightexpError as error:
        return {"failed": str(error)}
    except Exception as error:
        return (
            {"interrupted": True}
            if interrupt.was_requested()
            else {"failed": str(exceptions.summarize_exception(error))}
        )


def _run(runner: Runner, task: dict[str, Any]) -> dict[str, float]:
    """Runs one row with one seed; what must be timed is left for later, when nothing else computes."""
    settings = compose(task["overrides"])
    quiet = {name: one for name, one in settings.measure.items() if not one.is_timing}
    return runner.run(replace(settings, measure=quiet), task["overrides"], tags=task["tags"]).metrics


def _stage(runner: Runner, task: dict[str, Any]) -> dict[str, float]:
    """Makes a stage that several rows stand on, and all before it."""
    settings = compose(task["overrides"])
    plan, data = runner.plan(settings)
    place = [node.key for node in plan.nodes].index(task["key"])
    part = replace(plan, nodes=plan.nodes[: place + 1])
    made = Executor(part, settings, data, Store(settings.outputs / "store"), SilentReporter()).make()
    return {"seconds": made[-1].seconds}


def _time(runner: Runner, task: dict[str, Any]) -> dict[str, float]:
    """Measures the latency of a finished run's files and enters it in the record."""
    settings = compose(task["overrides"])
    record = read_record(settings.outputs / RUNS / task["id"])
    plan, data = runner.plan(settings)
    timed = replace(settings, measure={n: one for n, one in settings.measure.items() if one.is_timing})
    executor = Executor(plan, timed, data, Store(settings.outputs / "store"), SilentReporter())
    stages = executor.make()
    executor.measure(stages, test=False)
    for stage, again in zip(record.stages, stages, strict=True):
        stage.metrics += [figure for figure in again.metrics if stage.metric(figure.name) is None]
    record.environment["timed_on"] = os.uname().nodename
    runner.show_again(record, settings)
    return record.metrics


class _Said:
    """Passes on what the runner says; see `lightexp.runner.progress.ProgressReporter`."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers

    def say(self, words: str) -> None:
        if "threads, seed" not in words:  # where a run goes is told when it has ended
            reply(self._answers, {"say": words})

    def finished(self, stage: StageRecord) -> None:
        if not stage.from_store:
            reply(self._answers, {"say": f"{stage.name} {stage.seconds:.1f} s"})

    @contextmanager
    def stage(self, name: str, number: int, of: int) -> Iterator[Progress]:
        with SilentReporter().stage(name, number, of) as progress:
            yield progress


if __name__ == "__main__":
    main()
