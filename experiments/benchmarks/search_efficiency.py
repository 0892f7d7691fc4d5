"""Is anything done twice, and are the cores busy, when a study prunes one stored model in 16 ways?

`lightexp search` over a grid of 16 sparsities of LeNet-5 on Fashion-MNIST, by a worker of one thread for each core; the
control is in the store. The store notes what CPU time each of its entries took to make. *Work* is the CPU time of the
whole command, with imports, measuring, MLflow and the front's figures, over that of its 16 stages; *efficiency* is the
stages' CPU time over cores times the command's wall time.

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

WORK, EFFICIENCY = 1.1, 0.85
BASE = ["model=lenet5", "pipeline.stages.train.epochs=1"]
SEARCH = ["search=_settings", "search.study=sparsity", "search.sampler=grid", "search.corners=[]", "pipeline=prune"]
SETTINGS = 16


def main() -> None:
    """Makes the control and prunes it."""
    options = make_parser(__doc__, runs=1)
    options.add_argument("--epochs", type=int, default=4, help="of pruning in each stage (default: 4)")
    chosen = options.parse_args()
    cores = 1 if chosen.smoke else len(os.sched_getaffinity(0))
    work, efficiency, shortest = [], [], 1e9
    with tempfile.TemporaryDirectory() as name:
        start = Path(name) / "start"
        start.mkdir()
        data = [*write_few(start, 500), "tracking=none"] if chosen.smoke else ["dataset=fashion_mnist"]
        step, count = (0.2, 3) if chosen.smoke else (0.03, SETTINGS)
        run_lightexp(["run", *BASE, *data, "pipeline=control"], start)
        for run in range(1 if chosen.smoke else chosen.runs):
            folder = Path(name) / str(run)
            shutil.copytree(start, folder)
            known = set(_stages(folder))
            words = [
                f"pipeline.stages.prune.sparsity=range(0.5,{0.5 + (count - 0.5) * step},{step})",
                f"pipeline.stages.prune.epochs={1 if chosen.smoke else chosen.epochs}",
                f"search.workers={cores}",
                f"runtime.threads={cores}",
                f"search.trials={2 * count}",  # a grid ends by itself
            ]
            before, begun = _children(), time.perf_counter()
            run_lightexp(["search", *SEARCH, *BASE, *data, *words], folder)
            wall, spent = time.perf_counter() - begun, _children() - before
            stages = [seconds for key, seconds in _stages(folder).items() if key not in known]
            assert len(stages) == len(list_ended_trials(folder, "sparsity")) == count
            work.append(spent / sum(stages))
            efficiency.append(sum(stages) / (cores * wall))
            shortest = min(shortest, *stages)
    note = f"{count} stages of {shortest:.1f} CPU seconds or more, {cores} cores, the last command {wall:.0f} s"
    results = [
        Result("work over unique stages", work, [], "x", WORK, at_least=False, note=note),
        Result("sweep efficiency", efficiency, [], "of the cores' time", EFFICIENCY, at_least=True),
    ]
    print_results(results, chosen.json)


def _stages(folder: Path) -> dict[str, float]:
    """CPU seconds of each of the store's entries, by key."""
    manifests = map(json.loads, (p.read_text() for p in (folder / "outputs/store/entries").rglob("manifest.json")))
    return {manifest["key"]: manifest["cpu_seconds"] for manifest in manifests}


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
