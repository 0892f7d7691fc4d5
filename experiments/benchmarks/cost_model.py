"""Model of how long a study takes on many workers, and whether it agrees with what `scale.py` has measured.

A worker evaluates a trial for some seconds, and then needs a core for the rest of it: sampling, records, the storage's
work. Part of that it does while no other worker may propose a trial, so that none repeats another one's. The model is a
simulation of workers that share the cores evenly and wait in turn for that lock; what they compute is exponentially
distributed, as in queueing theory. What a trial computes grows with the number of workers, since each of them reads
what all have written; that line goes through the measurements with the fewest and the most workers.

Without options, each measured rate is compared with the predicted one. With `--trials`, a table of hours is printed for
the machines that you name.

    python experiments/benchmarks/cost_model.py
    python experiments/benchmarks/cost_model.py --trials 10000 --seconds 30 --cores 64
"""

from __future__ import annotations

import heapq
import json
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Result, make_parser, print_results

MEASURED = Path(__file__).parent / "scale.json"
WORKERS = (1, 2, 4, 8, 16, 32, 64)
MAX_ERROR = 1.15
_UNCOUNTED_TRIALS, _COUNTED_TRIALS = 3, 4_000
"""Trials of each worker before the counting, and of all that are counted."""


@dataclass(frozen=True)
class Line:
    """A cost that grows with the number of workers, in seconds."""

    base: float
    growth: float

    def at(self, workers: int) -> float:
        """Return the cost with a number of workers."""
        return self.base + self.growth * workers


@dataclass(frozen=True)
class Step:
    """One step of a trial.

    Attributes:
        seconds: Its mean duration on a core of its own; that of the evaluation does not vary.
        place: The place that computes it. Defaults to None: the evaluation, which waits for nothing.
        is_exclusive: Whether one worker at a time is in it, or in the exclusive steps after it.
    """

    seconds: float
    place: int | None = None
    is_exclusive: bool = False


@dataclass(frozen=True)
class TrialCost:
    """What a trial computes beyond its evaluation.

    Attributes:
        storage: The kind of storage of the study.
        worker: CPU time on the worker's host.
        worker_exclusive: The part of it in which no other trial can be proposed.
        server: CPU time of the database's server, in seconds.
        server_exclusive: The part of it in which no other trial can be proposed.
    """

    storage: str
    worker: Line
    worker_exclusive: Line
    server: float
    server_exclusive: float

    def predict_rate(self, workers: int, seconds: float, cores: int, server_cores: int = 0) -> float:
        """Return the trials per second of a study.

        Args:
            workers: Number of workers.
            seconds: Duration of a trial's evaluation, which sleeps, or computes on other cores.
            cores: Number of cores that compute the rest of all trials.
            server_cores: Number of the server's own cores. Defaults to 0: it computes on the same ones.
        """
        exclusive = self.worker_exclusive.at(workers)
        server = 1 if server_cores else 0
        steps = [
            Step(seconds),
            Step(self.worker.at(workers) - exclusive, 0),
            Step(self.server - self.server_exclusive, server),
            Step(exclusive, 0, is_exclusive=True),
            Step(self.server_exclusive, server, is_exclusive=True),
        ]
        return Simulation(steps, [cores, server_cores or cores], workers).measure_rate()


class Cores:
    """Cores of one place, evenly shared by the workers that compute there."""

    def __init__(self, count: int) -> None:
        """Compute nothing yet."""
        self._count = count
        self._work = 0.0  # that each worker would have done which had been here from the start
        self._ends: list[tuple[float, int]] = []

    def add(self, worker: int, seconds: float) -> None:
        """Let a worker compute for some seconds of a core."""
        heapq.heappush(self._ends, (self._work + seconds, worker))

    def find_end(self) -> float:
        """Return in how many seconds the first worker will have computed what it needs."""
        return (self._ends[0][0] - self._work) / self._speed if self._ends else math.inf

    def advance(self, seconds: float) -> None:
        """Let some seconds pass."""
        self._work += seconds * self._speed

    def pop(self) -> int:
        """Remove and return the first worker that has computed what it needs."""
        return heapq.heappop(self._ends)[1]

    @property
    def _speed(self) -> float:
        return min(1.0, self._count / max(1, len(self._ends)))


class Simulation:
    """Workers that repeat the steps of a trial."""

    def __init__(self, steps: Sequence[Step], cores: Sequence[int], workers: int) -> None:
        """Let the workers begin at different times.

        Args:
            steps: The steps of a trial, the evaluation first and the exclusive ones last.
            cores: Number of cores of each place.
            workers: Number of workers.
        """
        self._steps, self._places = steps, [Cores(count) for count in cores]
        self._evaluating = Cores(workers)
        self._random = random.Random(0)
        self._now, self._ended = 0.0, 0
        self._at = [0] * workers  # the step of each worker
        self._waiting: deque[int] = deque()
        self._is_locked = False
        for worker in range(workers):
            self._evaluating.add(worker, self._random.uniform(0, steps[0].seconds))

    def measure_rate(self) -> float:
        """Return the trials per second, once each worker has ended some."""
        self._run_until(_UNCOUNTED_TRIALS * len(self._at))
        start, before = self._now, self._ended
        self._run_until(before + _COUNTED_TRIALS)
        return (self._ended - before) / (self._now - start)

    def _run_until(self, trials: int) -> None:
        places = [self._evaluating, *self._places]
        while self._ended < trials:
            seconds, first = min((place.find_end(), number) for number, place in enumerate(places))
            self._now += seconds
            for place in places:
                place.advance(seconds)
            self._end_step(places[first].pop())

    def _end_step(self, worker: int) -> None:
        before = self._steps[self._at[worker]]
        self._at[worker] = (self._at[worker] + 1) % len(self._steps)
        step = self._steps[self._at[worker]]
        if before.is_exclusive and not step.is_exclusive:
            self._ended += 1
            self._is_locked = bool(self._waiting)
            if self._waiting:
                self._begin_step(self._waiting.popleft())
        if step.is_exclusive and not before.is_exclusive:
            if self._is_locked:
                self._waiting.append(worker)
                return
            self._is_locked = True
        self._begin_step(worker)

    def _begin_step(self, worker: int) -> None:
        step = self._steps[self._at[worker]]
        if step.place is None:
            self._evaluating.add(worker, step.seconds)
        else:
            self._places[step.place].add(worker, self._random.expovariate(1.0) * step.seconds)


def fit_costs(facts: Sequence[dict[str, Any]]) -> list[TrialCost]:
    """Return the cost of a trial on each kind of storage, from the facts of the part `workers`."""
    costs = []
    for storage in dict.fromkeys(fact["storage"] for fact in facts):
        rows = sorted((fact for fact in facts if fact["storage"] == storage), key=lambda fact: fact["workers"])
        worker, exclusive = (_fit_line(rows, name) for name in ("worker_cpu_ms", "worker_exclusive_ms"))
        server, server_exclusive = (rows[-1][name] / 1e3 for name in ("server_cpu_ms", "server_exclusive_ms"))
        costs.append(TrialCost(storage, worker, exclusive, server, min(server, server_exclusive)))
    return costs


def _fit_line(rows: Sequence[dict[str, Any]], name: str) -> Line:
    """Return the line through the measurements with the fewest and the most workers."""
    few, many = rows[0], rows[-1]
    growth = (many[name] - few[name]) / max(1, many["workers"] - few["workers"])
    return Line((few[name] - growth * few["workers"]) / 1e3, growth / 1e3)


def compare_rates(costs: Sequence[TrialCost], facts: Sequence[dict[str, Any]]) -> list[Result]:
    """Compare each measured rate with the predicted one."""
    by_storage = {cost.storage: cost for cost in costs}
    results = []
    for fact in facts:
        workers, rate = fact["workers"], fact["rate"]
        predicted = by_storage[fact["storage"]].predict_rate(workers, fact["seconds"], fact["cores"])
        error = max(predicted / rate, rate / predicted)
        note = f"predicted {predicted:.2f}, measured {rate:.2f} trials/s"
        name = f"{workers} workers on {fact['storage']}, factor between prediction and measurement"
        results.append(Result(name, [error], [], "", MAX_ERROR, at_least=False, note=note))
    return results


def print_hours(costs: Sequence[TrialCost], trials: int, seconds: float, cores: int, server_cores: int) -> None:
    """Print the hours of a study by number of workers and kind of storage."""
    print(f"Hours of {trials:,} trials of {seconds:g} s, and the share of the ideal rate")
    print("workers" + "".join(f"{cost.storage:>20}" for cost in costs))
    for workers in WORKERS:
        line = f"{workers:>7}"
        for cost in costs:
            rate = cost.predict_rate(workers, seconds, cores, server_cores)
            line += f"{trials / rate / 3600:>13,.2f} {rate * seconds / workers:>6.0%}"
        print(line)


def main() -> None:
    """Compare the model with the measurements, or print a table of hours."""
    parser = make_parser(__doc__)
    parser.add_argument("--trials", type=int, help="print the hours of a study of so many trials")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a trial's evaluation (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="of all hosts of workers together (default: %(default)s)")
    parser.add_argument("--server-cores", type=int, default=0, help="of the database's host (default: it shares them)")
    options = parser.parse_args()
    if (
        min(options.seconds, options.cores, 1 if options.trials is None else options.trials) <= 0
        or options.server_cores < 0
    ):
        parser.error("--trials, --seconds and --cores must be above 0, --server-cores 0 or more")
    results = json.loads(MEASURED.read_text(encoding="utf-8"))["results"]
    facts = [result["facts"] for result in results if "worker_cpu_ms" in result["facts"]]
    costs = fit_costs(facts)
    if options.trials is None:
        print_results(compare_rates(costs, facts), options.json)
    else:
        print_hours(costs, options.trials, options.seconds, options.cores, options.server_cores)


if __name__ == "__main__":
    main()
