"""Trials an hour of a study that trains: two workers of one thread against one process with default threads.

`lightexp search search=prune_quantize` of LeNet-5 on Fashion-MNIST, the control in the store already: both sides run
the same trials, of which each prunes while it trains on, quantises and measures. In turn, each in a new folder. The
rate counts from when each worker has ended its first trial, so that imports and loading stand apart.

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
SEARCH = ["search=prune_quantize", "search.study=rate", "search.sampler=random", "search.corners=[]"]


def main() -> None:
    """Makes the control and runs both sides in turn."""
    options = make_parser(__doc__, runs=3)
    options.add_argument("--trials", type=int, default=8, help="of each study (default: 8)")
    options.add_argument("--epochs", type=int, default=2, help="of pruning in each trial (default: 2)")
    chosen = options.parse_args()
    if chosen.smoke:
        chosen.runs, chosen.trials, chosen.epochs = 1, 3, 1
    rates: dict[int, list[float]] = {2: [], 1: []}
    with tempfile.TemporaryDirectory() as name:
        start = Path(name) / "start"
        start.mkdir()
        data = [*write_few(start, 500), "tracking=none"] if chosen.smoke else ["dataset=fashion_mnist"]
        run_lightexp(["run", *BASE, *data, "pipeline=control"], start)
        for run in range(chosen.runs):
            for workers, found in rates.items():
                found.append(_rate(workers, [*data, *BASE], start, Path(name) / f"{run}-{workers}", chosen))
    print_results(
        [Result("trials an hour of training", rates[2], rates[1], "an hour", TARGET, at_least=True)], chosen.json
    )


def _rate(workers: int, words: list[str], start: Path, folder: Path, chosen: argparse.Namespace) -> float:
    shutil.copytree(start, folder)
    more = [f"search.trials={chosen.trials}", f"search.workers={workers}"]
    run_lightexp(["search", *SEARCH, *words, *more, f"pipeline.stages.prune.epochs={chosen.epochs}"], folder)
    return count_per_hour(list_ended_trials(folder, "rate"), workers)


if __name__ == "__main__":
    main()
