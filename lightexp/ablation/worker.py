"""A process that runs rows; see `lightexp.ablation.crew`. It takes tasks and gives answers as lines of JSON."""

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

from lightexp.core import interrupt, unforeseen
from lightexp.core.child import answer, answers
from lightexp.core.errors import LightexpError
from lightexp.core.protocols import Progress
from lightexp.core.record import StageRecord, read
from lightexp.core.records import RUNS
from lightexp.core.store import Store
from lightexp.measure.latency import Latency
from lightexp.runner.compose import settings as compose
from lightexp.runner.execute import Executor
from lightexp.runner.run import Runner
from lightexp.runner.watch import Silent


def main() -> None:
    """Answers tasks until the input closes; if that is in the middle of one, its parent has died, and it stops."""
    interrupt.listen()
    parent = answers()
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
        answer(parent, found)
        if "interrupted" in found:
            return


def _answer(runner: Runner, task: dict[str, Any]) -> dict[str, Any]:
    try:
        work = {"run": _run, "stage": _stage, "time": _time}[task["call"]]
        return {"figures": work(runner, task)}
    except KeyboardInterrupt:
        return {"interrupted": True}
    except LightexpError as error:
        return {"failed": str(error)}
    except Exception as error:
        return {"interrupted": True} if interrupt.asked() else {"failed": str(unforeseen.told(error))}


def _run(runner: Runner, task: dict[str, Any]) -> dict[str, float]:
    """Runs one row with one seed; what must be timed is left for later, when nothing else computes."""
    settings = compose(task["overrides"])
    quiet = {name: one for name, one in settings.measure.items() if not isinstance(one, Latency)}
    return runner.run(replace(settings, measure=quiet), task["overrides"], tags=task["tags"]).figures


def _stage(runner: Runner, task: dict[str, Any]) -> dict[str, float]:
    """Makes a stage that several rows stand on, and all before it."""
    settings = compose(task["overrides"])
    plan, data = runner.plan(settings)
    place = [node.key for node in plan.nodes].index(task["key"])
    part = replace(plan, nodes=plan.nodes[: place + 1])
    made = Executor(part, settings, data, Store(settings.outputs / "store"), Silent()).make()
    return {"seconds": made[-1].seconds}


def _time(runner: Runner, task: dict[str, Any]) -> dict[str, float]:
    """Measures the latency of a finished run's files and enters it in the record."""
    settings = compose(task["overrides"])
    record = read(settings.outputs / RUNS / task["id"])
    plan, data = runner.plan(settings)
    timed = replace(settings, measure={n: one for n, one in settings.measure.items() if isinstance(one, Latency)})
    executor = Executor(plan, timed, data, Store(settings.outputs / "store"), Silent())
    stages = executor.make()
    executor.measure(stages, test=False)
    for stage, again in zip(record.stages, stages, strict=True):
        stage.figures += [figure for figure in again.figures if stage.figure(figure.name) is None]
    record.environment["timed_on"] = os.uname().nodename
    runner.show_again(record, settings)
    return record.figures


class _Said:
    """Passes on what the runner says; see `lightexp.runner.watch.Watch`."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers

    def say(self, words: str) -> None:
        if "threads, seed" not in words:  # where a run goes is told when it has ended
            answer(self._answers, {"say": words})

    def finished(self, stage: StageRecord) -> None:
        if not stage.from_store:
            answer(self._answers, {"say": f"{stage.name} {stage.seconds:.1f} s"})

    @contextmanager
    def working(self, name: str, number: int, of: int) -> Iterator[Progress]:
        with Silent().working(name, number, of) as progress:
            yield progress


if __name__ == "__main__":
    main()
