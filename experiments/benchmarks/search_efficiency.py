"""Work and core use of a study that prunes one stored model in 16 ways.

`lightexp search` over a grid of 16 sparsities of LeNet-5 on Fashion-MNIST, with one worker of one thread for each core;
the control is in the store. The store records the CPU time that each of its entries took. *Work* is the CPU time of
the complete command (imports, measurements, MLflow and plots included) divided by that of its 16 stages; *efficiency*
is the stages' CPU time divided by the number of cores times the command's wall time.

    python experiments/benchmarks/search_efficiency.py --runs 1
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

from common import Result, list_ended_trials, make_parser, print_results, run_lightexp, write_few

MAX_WORK, MIN_EFFICIENCY = 1.1, 0.85
BASE = ["model=lenet5", "pipeline.stages.train.epochs=1"]
SMALL = ["model=lenet_300_100", "model.width=0.1", "pipeline.stages.train.epochs=1"]
SEARCH = ["search=_settings", "search.study=sparsity", "search.sampler=grid", "search.corners=[]", "pipeline=prune"]
SPARSITIES = 16


def main() -> None:
    """Train the control, prune it in a study, and print the results."""
    parser = make_parser(__doc__, runs=1)
    parser.add_argument("--epochs", type=int, default=4, help="of pruning in each stage (default: 4)")
    options = parser.parse_args()
    cores = 1 if options.smoke else len(os.sched_getaffinity(0))
    work, efficiency, shortest = [], [], 1e9
    with tempfile.TemporaryDirectory() as name:
        start = Path(name) / "start"
        start.mkdir()
        base, step, count = [*BASE, "dataset=fashion_mnist"], 0.03, SPARSITIES
        if options.smoke:
            base, step, count = [*SMALL, *write_few(start, 200), "tracking=none"], 0.3, 2
        run_lightexp(["run", *base, "pipeline=control"], start)
        for run in range(1 if options.smoke else options.runs):
            folder = Path(name) / str(run)
            shutil.copytree(start, folder)
            stored = set(read_cpu_seconds(folder))
            overrides = [
                f"pipeline.stages.prune.sparsity=range(0.5,{0.5 + (count - 0.5) * step},{step})",
                f"pipeline.stages.prune.epochs={1 if options.smoke else options.epochs}",
                f"search.workers={cores}",
                f"runtime.threads={cores}",
                f"search.trials={2 * count}",  # a grid ends by itself
            ]
            cpu_before, started = read_children_cpu_seconds(), time.perf_counter()
            run_lightexp(["search", *SEARCH, *base, *overrides], folder)
            wall, cpu = time.perf_counter() - started, read_children_cpu_seconds() - cpu_before
            stages = [seconds for key, seconds in read_cpu_seconds(folder).items() if key not in stored]
            assert len(stages) == len(list_ended_trials(folder, "sparsity")) == count
            work.append(cpu / sum(stages))
            efficiency.append(sum(stages) / (cores * wall))
            shortest = min(shortest, *stages)
    note = f"{count} stages of {shortest:.1f} CPU seconds or more, {cores} cores, the last command {wall:.0f} s"
    results = [
        Result("work over unique stages", work, [], "x", MAX_WORK, at_least=False, note=note),
        Result("sweep efficiency", efficiency, [], "of the cores' time", MIN_EFFICIENCY, at_least=True),
    ]
    print_results(results, options.json)


def read_cpu_seconds(folder: Path) -> dict[str, float]:
    """Return the CPU seconds that each entry of the store took, by its key."""
    paths = (folder / "outputs/store/entries").rglob("manifest.json")
    manifests = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {manifest["key"]: manifest["cpu_seconds"] for manifest in manifests}


def read_children_cpu_seconds() -> float:
    """Return the CPU seconds of all ended child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
