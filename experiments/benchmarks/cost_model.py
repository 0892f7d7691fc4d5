"""Model of how long a study takes on many workers, and whether it agrees with what `scale.py` has measured.

A worker evaluates a trial for some seconds, and then needs a core for the rest of it: sampling, records, the storage's
work. All workers wait for the cores in turn, so the rate follows from mean value analysis (Reiser and Lavenberg, 1980)
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
class TrialCost:
    """What a trial computes beyond its evaluation, in seconds.

    Attributes:
        storage: The kind of storage of the study.
        worker: CPU time on the worker's host, for a study without workers.
        worker_growth: What each worker of the study adds to it.
        server: CPU time of the database's server.
    """

    storage: str
    worker: float
    worker_growth: float
    server: float

    def predict_rate(self, workers: int, seconds: float, cores: int, server_cores: int = 0) -> float:
        """Return the trials per second of a study.

        Args:
            workers: Number of workers.
            seconds: Duration of a trial's evaluation, which sleeps, or computes on other cores.
            cores: Number of cores that compute the rest of all trials.
            server_cores: Number of the server's own cores. Defaults to 0: it computes on the same ones.
        """
        worker = self.worker + self.worker_growth * workers
        if server_cores:
            return analyze_mean_values([(worker, cores), (self.server, server_cores)], workers, seconds)
        return analyze_mean_values([(worker + self.server, cores)], workers, seconds)


def analyze_mean_values(stations: Sequence[tuple[float, int]], customers: int, delay: float) -> float:
    """Return the customers that pass per second in a closed queueing network.

    Args:
        stations: The seconds that a customer needs at each station, and its number of cores. A station of several is
            taken for one that is as much faster, after a delay of the rest (Seidmann et al., 1987).
        customers: Number of customers.
        delay: Seconds in which each customer waits for nothing.
    """
    delay += sum(seconds * (1 - 1 / cores) for seconds, cores in stations)
    lengths = [0.0] * len(stations)
    rate = 0.0
    for number in range(1, customers + 1):
        times = [seconds / cores * (1 + length) for (seconds, cores), length in zip(stations, lengths, strict=True)]
        rate = number / (delay + sum(times))
        lengths = [rate * time for time in times]
    return rate


def fit_costs(facts: Sequence[dict[str, Any]]) -> list[TrialCost]:
    """Return the cost of a trial on each kind of storage, from the facts of the part `workers`."""
    costs = []
    for storage in dict.fromkeys(fact["storage"] for fact in facts):
        rows = sorted((fact for fact in facts if fact["storage"] == storage), key=lambda fact: fact["workers"])
        few, many = rows[0], rows[-1]
        growth = (many["worker_cpu_ms"] - few["worker_cpu_ms"]) / max(1, many["workers"] - few["workers"])
        base = few["worker_cpu_ms"] - growth * few["workers"]
        costs.append(TrialCost(storage, base / 1e3, growth / 1e3, many["server_cpu_ms"] / 1e3))
    return costs


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
