"""Trials per hour of a study that trains: two workers of one thread against one process with default threads.

`lightexp search search=prune_quantize` of LeNet-5 on Fashion-MNIST, with the control in the store: both sides run the
same trials, each of which prunes while it trains, quantises and measures. The sides run in turn, each in a new folder.
The rate counts from the end of each worker's first trial, so that imports and loading are left out.

    python experiments/benchmarks/search_training.py --runs 3
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from common import Result, count_per_hour, list_ended_trials, make_parser, print_results, run_lightexp, write_few

TARGET = 1.4
BASE = ["model=lenet5", "pipeline.stages.train.epochs=1"]
SMALL = ["model=lenet_300_100", "model.width=0.1", "pipeline.stages.train.epochs=1"]
SEARCH = ["search=prune_quantize", "search.study=rate", "search.sampler=random", "search.corners=[]"]


def main() -> None:
    """Train the control, run both sides in turn, and print the results."""
    parser = make_parser(__doc__, runs=3)
    parser.add_argument("--trials", type=int, default=8, help="of each study (default: 8)")
    parser.add_argument("--epochs", type=int, default=2, help="of pruning in each trial (default: 2)")
    options = parser.parse_args()
    if options.smoke:
        options.runs, options.trials, options.epochs = 1, 3, 1
    rates: dict[int, list[float]] = {2: [], 1: []}
    with tempfile.TemporaryDirectory() as name:
        start = Path(name) / "start"
        start.mkdir()
        overrides = [*BASE, "dataset=fashion_mnist"]
        if options.smoke:
            overrides = [*SMALL, *write_few(start, 200), "tracking=none"]
        run_lightexp(["run", *overrides, "pipeline=control"], start)
        for run in range(options.runs):
            for workers in rates:
                folder = Path(name) / f"{run}-{workers}"
                shutil.copytree(start, folder)
                rates[workers].append(measure_rate(workers, overrides, folder, options))
    result = Result("trials an hour of training", rates[2], rates[1], "an hour", TARGET, at_least=True)
    print_results([result], options.json)


def measure_rate(workers: int, overrides: list[str], folder: Path, options: argparse.Namespace) -> float:
    """Run a study and return its trials per hour."""
    size = [f"search.trials={options.trials}", f"search.workers={workers}"]
    run_lightexp(["search", *SEARCH, *overrides, *size, f"pipeline.stages.prune.epochs={options.epochs}"], folder)
    return count_per_hour(list_ended_trials(folder, "rate"), workers)


if __name__ == "__main__":
    main()
