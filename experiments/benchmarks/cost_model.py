"""Model of how long a study takes on many workers, and whether it agrees with what `scale.py` has measured.

A worker evaluates a trial for some seconds, and then needs a core for the rest of it: sampling, records, the storage's
work. Part of that it does while no other worker may propose a trial, so that none repeats another one's. All workers
wait for the cores in turn, and for that lock, so the rate follows from mean value analysis (Reiser and Lavenberg, 1980)
with one station per place that computes. What a trial computes grows with the number of workers, since each of them
reads what all have written; that line goes through the measurements with the fewest and the most workers.

Without options, each measured rate is compared with the predicted one. With `--trials`, a table of hours is printed for
the machines that you name.

    python experiments/benchmarks/cost_model.py
    python experiments/benchmarks/cost_model.py --trials 10000 --seconds 30 --cores 64
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Result, make_parser, print_results

MEASURED = Path(__file__).parent / "scale.json"
WORKERS = (1, 2, 4, 8, 16, 32, 64)
MAX_ERROR = 1.15


@dataclass(frozen=True)
class Line:
    """A cost that grows with the number of workers, in seconds."""

    base: float
    growth: float

    def at(self, workers: int) -> float:
        """Return the cost with a number of workers."""
        return self.base + self.growth * workers


@dataclass(frozen=True)
class Station:
    """A place that computes, and what each trial needs of it.

    Attributes:
        free: Seconds of it in which other trials can be proposed.
        exclusive: Seconds of it in which no other one can.
        cores: Number of its cores.
    """

    free: float
    exclusive: float
    cores: int


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
        free, server_free = self.worker.at(workers) - exclusive, self.server - self.server_exclusive
        stations = [Station(free + server_free, exclusive + self.server_exclusive, cores)]
        if server_cores:
            stations = [Station(free, exclusive, cores), Station(server_free, self.server_exclusive, server_cores)]
        return analyze_mean_values(stations, workers, seconds)


def analyze_mean_values(stations: Sequence[Station], customers: int, delay: float) -> float:
    """Return the customers that pass per second in a closed queueing network with one lock.

    At a station, a customer that has the lock waits for those without it, and never for another one that has it.

    Args:
        stations: What a customer needs. A station of several cores is taken for one that is as much faster, after a
            delay of the rest (Seidmann et al., 1987).
        customers: Number of customers.
        delay: Seconds in which each customer waits for nothing.
    """
    slower = [1 - 1 / station.cores for station in stations]
    free_delay = sum(station.free * share for station, share in zip(stations, slower, strict=True))
    held_delay = sum(station.exclusive * share for station, share in zip(stations, slower, strict=True))
    free_lengths, held_lengths = [0.0] * len(stations), [0.0] * len(stations)
    lock_length = rate = 0.0
    for number in range(1, customers + 1):
        lengths = list(zip(stations, free_lengths, held_lengths, strict=True))
        free_times = [station.free / station.cores * (1 + free + held) for station, free, held in lengths]
        held_times = [station.exclusive / station.cores * (1 + free) for station, free, _ in lengths]
        locked = (held_delay + sum(held_times)) * (1 + lock_length)  # for itself, and for those before it
        rate = number / (delay + free_delay + sum(free_times) + locked)
        free_lengths, held_lengths = ([rate * t for t in times] for times in (free_times, held_times))
        lock_length = rate * locked
    return rate


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
    results = json.loads(MEASURED.read_text(encoding="utf-8"))["results"]
    facts = [result["facts"] for result in results if "worker_cpu_ms" in result["facts"]]
    costs = fit_costs(facts)
    if options.trials is None:
        print_results(compare_rates(costs, facts), options.json)
    else:
        print_hours(costs, options.trials, options.seconds, options.cores, options.server_cores)


if __name__ == "__main__":
    main()
