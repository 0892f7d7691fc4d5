"""How good a front the search finds, on a table of configurations that were all trained and measured.

The table (`search_table/table.csv`; `search_table/make.py` makes it) stands in for the training, so that searches can
be repeated with many seeds; everything else is the search's own core, on a journal file. Compared are the hypervolumes
of the default sampler after 50 trials and of random search after 100, and, of the default sampler, with front-aware
halving against every configuration trained to its end, and the epochs that either trains: of each configuration the
most it was trained for, and of each training, which configurations that differ after it share in the store.

What halving does, and its defaults, were settled on the seeds 100 to 139 and on a second table, of another seed and
split (`search_table/make.py` with `seed=1 dataset.split_seed=1`); the seeds that are reported, 0 to 19, were run after.
"""

from __future__ import annotations

import csv
import itertools
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from common import Result, make_parser, print_results
from omegaconf import DictConfig, OmegaConf

from lightexp.core.protocols import Metric
from lightexp.core.record import Record, StageRecord
from lightexp.runner.execute import STOPPED_FACT
from lightexp.search.halving import SuccessiveHalving
from lightexp.search.space import SearchSpace
from lightexp.search.study import Proposal, SearchStudy
from lightexp.search.study_identity import StudyIdentity
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import compute_status

TABLE = Path(__file__).parent / "search_table/table.csv"
EXAMPLES, CLASSES, SETTLED, WHOLE = 800, 10, 3, 30
TRIALS, RANDOM = 50, 100


@dataclass(frozen=True)
class Found:
    """What a search came to: its hypervolume, and the epochs of its configurations and of its trainings."""

    hypervolume: float
    epochs: int
    trained: int


class Table:
    """The recorded configurations."""

    def __init__(self, path: Path) -> None:
        """Reads them."""
        with path.open() as file:
            self.words: list[str] = json.loads(file.readline().partition("search ")[2])
            head, *rows = csv.reader(file)
        count = next(n for n, name in enumerate(head) if name.startswith("right_"))
        self.names = head[:count]
        self.trains = [".quantize." not in name for name in self.names]
        self.epochs = [SETTLED + int(name.partition("_")[2]) for name in head[count::2]]
        self.rows: dict[tuple[str, ...], list[list[Metric]]] = {}
        for row in rows:
            corner = len(row) == 3
            numbers = [int(n) for n in row[1 if corner else count :]]
            self.rows[tuple(row[: 1 if corner else count])] = [
                [Metric("accuracy/val", right / EXAMPLES), Metric("size/gzip_bytes", size)]
                for right, size in zip(numbers[::2], numbers[1::2], strict=True)
            ]

    def key(self, config: DictConfig) -> tuple[str, ...]:
        """The row of a configuration."""
        if "prune" not in config.pipeline.order:
            return ("int8",)
        return tuple(str(OmegaConf.select(config, name)) for name in self.names)

    def record(self, proposal: Proposal, halving: SuccessiveHalving | None) -> tuple[Record, tuple[str, ...], int]:
        """What running a proposal would have recorded, its row, and the epochs that its training has then."""
        row = self.key(proposal.config)
        trained = len(row) > 1
        stop = halving.make_rung(proposal.rung).stops(SETTLED, WHOLE)[-1] if halving and trained else None
        found = self.rows[row][self.epochs.index(stop) if stop else -1]
        stages = [StageRecord(n, n, True, 0.0, f) for n, f in (("train", self.rows["control",][0]), ("end", found))]
        if stop:
            stages[1].facts = {STOPPED_FACT: stop}
        facts = {"command": "", "config": {}, "varied": [], "environment": {}, "started": 0.0, "control": "train"}
        record = Record("r", "run", stages=stages, status="done", dataset={"classes": CLASSES}, **facts)
        return record, row, (stop or WHOLE) if trained else 0


def searched(table: Table, spec: StudySpec, space: SearchSpace, seed: int, folder: Path) -> Found:
    """Searches the table."""
    spec.settings = replace(spec.settings, seed=seed)
    study = SearchStudy(spec, space, folder, print, StudyIdentity({}))
    epochs: dict[tuple[str, ...], int] = {}
    trained: dict[tuple[str, ...], int] = {}
    while proposal := study.ask():
        record, row, count = table.record(proposal, spec.halving)
        study.finish(proposal, record)
        training = tuple(itertools.compress(row, table.trains))
        for most, key in ((epochs, row), (trained, training)):  # what is in the store is not trained again
            most[key] = max(count, most.get(key, 0))
    hypervolume = compute_status(study.trials, spec.objectives).hypervolume
    return Found(hypervolume, sum(epochs.values()), sum(trained.values()))


def searches(table: Table, words: list[str], seeds: range) -> Iterator[Found]:
    """Searches with each seed."""
    with tempfile.TemporaryDirectory() as temporary:
        spec = StudySpec([*table.words, f"paths.outputs={temporary}", *words], [])
        spec.check()
        space = spec.make_space({})
        for seed in seeds:
            yield searched(table, spec, space, seed, Path(temporary) / str(seed))


def main() -> None:
    """Compares and prints."""
    options = make_parser(__doc__, runs=20)
    options.add_argument("--table", type=Path, default=TABLE, help="default: %(default)s")
    options.add_argument("--first-seed", type=int, default=0, help="default: %(default)s")
    args = options.parse_args()
    table, share = Table(args.table), 0.1 if args.smoke else 1.0
    seeds = range(args.first_seed, args.first_seed + (1 if args.smoke else args.runs))
    found = {}
    for name, trials, words in (
        ("tpe", TRIALS, []),
        ("random", RANDOM, ["search.sampler=random"]),
        ("halving", TRIALS, ["search.halving={}"]),
    ):
        found[name] = list(searches(table, [f"search.trials={round(trials * share)}", *words], seeds))
    volumes = {name: [f.hypervolume for f in there] for name, there in found.items()}
    medians = {name: statistics.median(there) for name, there in volumes.items()}
    epochs = {name: statistics.median(f.epochs for f in there) for name, there in found.items()}
    trained = {name: statistics.median(f.trained for f in there) for name, there in found.items()}
    spread = {
        name: f"{name} {medians[name]:.4f} ({min(there):.4f}-{max(there):.4f})" for name, there in volumes.items()
    }
    over = f"medians of {len(seeds)} seeds"

    def compared(name: str, ours: float, theirs: float, unit: str, target: float, at_least: bool, note: str) -> Result:
        return Result(name, [ours], [theirs], unit, target, at_least, note)

    print_results(
        [
            compared(
                f"default sampler at {TRIALS} trials against random search at {RANDOM}",
                medians["tpe"],
                medians["random"],
                "hypervolume",
                1.0,
                True,
                f"{over}: {spread['tpe']}, {spread['random']}",
            ),
            compared(
                f"front-aware halving over {TRIALS} configurations against {TRIALS} trained to their ends",
                medians["halving"],
                medians["tpe"],
                "hypervolume",
                0.98,
                True,
                f"{over}: {spread['halving']}",
            ),
            compared("epochs of the same", epochs["halving"], epochs["tpe"], "epochs", 1 / 3, False, over),
            compared(
                "epochs of its trainings, shared in the store",
                trained["halving"],
                trained["tpe"],
                "epochs",
                1 / 3,
                False,
                over,
            ),
        ],
        args.json,
    )


if __name__ == "__main__":
    main()
