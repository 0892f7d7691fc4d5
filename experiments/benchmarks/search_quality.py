"""Quality of the fronts that searches find, on a table of configurations that were all trained and measured.

The table (`search_table/table.csv`, made by `search_table/make.py`) replaces the training, so that searches can be
repeated with many seeds; everything else is the search's own code on a journal file. Compared are the hypervolumes of
the default sampler after 50 trials and of random search after 100. For the default sampler, front-aware successive
halving is compared with training every configuration to its end, also by the epochs that either trains: of each
configuration the most it was trained for, and of each training, which configurations that differ only in later stages
share in the store.

Halving and its defaults were chosen on the seeds 100 to 139 and on a second table with another seed and split
(`search_table/make.py` with `seed=1 dataset.split_seed=1`); the reported seeds, 0 to 19, were run afterwards.
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
EXAMPLES, CLASSES, SCHEDULED_EPOCHS, ALL_EPOCHS = 800, 10, 3, 30
TRIALS, RANDOM_TRIALS = 50, 100


@dataclass(frozen=True)
class SearchResult:
    """What one search has found and spent.

    Attributes:
        hypervolume: Hypervolume of the front.
        epochs: Trained epochs, in sum over the configurations.
        shared_epochs: Trained epochs, in sum over the trainings that configurations share.
    """

    hypervolume: float
    epochs: int
    shared_epochs: int


class Table:
    """The recorded configurations."""

    def __init__(self, path: Path) -> None:
        """Read a table."""
        with path.open(encoding="utf-8") as file:
            self.overrides: list[str] = json.loads(file.readline().partition("search ")[2])
            header, *rows = csv.reader(file)
        count = next(n for n, name in enumerate(header) if name.startswith("right_"))
        self.names = header[:count]
        self.is_trained = [".quantize." not in name for name in self.names]
        self.epochs = [SCHEDULED_EPOCHS + int(name.partition("_")[2]) for name in header[count::2]]
        self.rows: dict[tuple[str, ...], list[list[Metric]]] = {}
        for row in rows:
            key_length = 1 if len(row) == 3 else count  # the control and int8 have a name and one measurement
            numbers = [int(n) for n in row[key_length:]]
            self.rows[tuple(row[:key_length])] = [
                [Metric("accuracy/val", right / EXAMPLES), Metric("size/gzip_bytes", size)]
                for right, size in zip(numbers[::2], numbers[1::2], strict=True)
            ]

    def find_key(self, config: DictConfig) -> tuple[str, ...]:
        """Return the key of a configuration's row."""
        if "prune" not in config.pipeline.order:
            return ("int8",)
        return tuple(str(OmegaConf.select(config, name)) for name in self.names)

    def make_record(self, proposal: Proposal, halving: SuccessiveHalving | None) -> tuple[Record, tuple[str, ...], int]:
        """Return the record that running a proposal would give, its row's key, and its training's epochs."""
        key = self.find_key(proposal.config)
        is_trained = len(key) > 1
        stop = None
        if halving and is_trained:
            stop = halving.make_rung(proposal.rung).stops(SCHEDULED_EPOCHS, ALL_EPOCHS)[-1]
        metrics = self.rows[key][self.epochs.index(stop) if stop else -1]
        control = self.rows["control",][0]
        stages = [StageRecord(name, name, True, 0.0, m) for name, m in (("train", control), ("end", metrics))]
        if stop:
            stages[1].facts = {STOPPED_FACT: stop}
        facts = {"command": "", "config": {}, "varied": [], "environment": {}, "started": 0.0, "control": "train"}
        record = Record("r", "run", stages=stages, status="done", dataset={"classes": CLASSES}, **facts)
        return record, key, (stop or ALL_EPOCHS) if is_trained else 0


def search_table(table: Table, spec: StudySpec, space: SearchSpace, seed: int, folder: Path) -> SearchResult:
    """Search the table once."""
    spec.settings = replace(spec.settings, seed=seed)
    study = SearchStudy(spec, space, folder, print, StudyIdentity({}))
    epochs: dict[tuple[str, ...], int] = {}
    shared_epochs: dict[tuple[str, ...], int] = {}
    while proposal := study.ask():
        record, key, count = table.make_record(proposal, spec.halving)
        study.finish(proposal, record)
        training = tuple(itertools.compress(key, table.is_trained))
        epochs[key] = max(count, epochs.get(key, 0))  # what is in the store is not trained again
        shared_epochs[training] = max(count, shared_epochs.get(training, 0))
    hypervolume = compute_status(study.trials, spec.objectives).hypervolume
    return SearchResult(hypervolume, sum(epochs.values()), sum(shared_epochs.values()))


def repeat_search(table: Table, overrides: list[str], seeds: range) -> Iterator[SearchResult]:
    """Search the table with each seed."""
    with tempfile.TemporaryDirectory() as temporary:
        spec = StudySpec([*table.overrides, f"paths.outputs={temporary}", *overrides], [])
        spec.check()
        space = spec.make_space({})
        for seed in seeds:
            yield search_table(table, spec, space, seed, Path(temporary) / str(seed))


def compare(searches: dict[str, list[SearchResult]], seeds: range) -> list[Result]:
    """Compare the medians of the searches.

    Args:
        searches: The results of `tpe`, `random` and `halving`.
        seeds: The seeds that they were run with.
    """
    volumes = {name: [result.hypervolume for result in results] for name, results in searches.items()}
    volume = {name: statistics.median(values) for name, values in volumes.items()}
    epochs = {name: statistics.median(r.epochs for r in results) for name, results in searches.items()}
    shared = {name: statistics.median(r.shared_epochs for r in results) for name, results in searches.items()}
    spread = {name: f"{name} {volume[name]:.4f} ({min(v):.4f}-{max(v):.4f})" for name, v in volumes.items()}
    over = f"medians of {len(seeds)} seeds"
    tpe_title = f"default sampler at {TRIALS} trials against random search at {RANDOM_TRIALS}"
    halving_title = f"front-aware halving over {TRIALS} configurations against {TRIALS} trained to their ends"
    tpe_note, halving_note = f"{over}: {spread['tpe']}, {spread['random']}", f"{over}: {spread['halving']}"
    shared_title = "epochs of its trainings, shared in the store"
    return [
        Result(tpe_title, [volume["tpe"]], [volume["random"]], "hypervolume", 1.0, True, tpe_note),
        Result(halving_title, [volume["halving"]], [volume["tpe"]], "hypervolume", 0.98, True, halving_note),
        Result("epochs of the same", [epochs["halving"]], [epochs["tpe"]], "epochs", 1 / 3, False, over),
        Result(shared_title, [shared["halving"]], [shared["tpe"]], "epochs", 1 / 3, False, over),
    ]


def main() -> None:
    """Search the table with each sampler and print the comparisons."""
    parser = make_parser(__doc__, runs=20)
    parser.add_argument("--table", type=Path, default=TABLE, help="default: %(default)s")
    parser.add_argument("--first-seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args()
    table = Table(options.table)
    scale = 0.1 if options.smoke else 1.0
    seeds = range(options.first_seed, options.first_seed + (1 if options.smoke else options.runs))
    searches = {}
    for name, trials, overrides in (
        ("tpe", TRIALS, []),
        ("random", RANDOM_TRIALS, ["search.sampler=random"]),
        ("halving", TRIALS, ["search.halving={}"]),
    ):
        size = f"search.trials={round(trials * scale)}"
        searches[name] = list(repeat_search(table, [size, *overrides], seeds))
    print_results(compare(searches, seeds), options.json)


if __name__ == "__main__":
    main()
