"""What the benchmarks share: the data, the machine's description and the printing of ratios."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput
from lightexp.datasets.fashion_mnist import FashionMnist


@dataclass(frozen=True)
class Result:
    """One comparison.

    Attributes:
        name: What was compared.
        ours: One value a run.
        theirs: One value a run, taken in turn with `ours`; empty where there is nothing to compare with.
        unit: Of both.
        target: Limit on the median ratio, or on the median itself where there are no `theirs`.
        at_least: Whether the target is a lower limit.
        note: What else was seen.
    """

    name: str
    ours: list[float]
    theirs: list[float]
    unit: str
    target: float
    at_least: bool
    note: str = ""

    @property
    def value(self) -> float:
        """Median of the ratios of neighbouring runs, so that a load that comes and goes meets both; or of `ours`."""
        pairs = zip(self.ours, self.theirs or [1.0] * len(self.ours), strict=True)
        return statistics.median(mine / other for mine, other in pairs)

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.value >= self.target if self.at_least else self.value <= self.target

    def __str__(self) -> str:
        figures = f"ours {_spread(self.ours)}"
        figures += f", theirs {_spread(self.theirs)} {self.unit}: {self.value:.2f}x" if self.theirs else f" {self.unit}"
        limit = f"{'at least' if self.at_least else 'at most'} {self.target:g}"
        words = f"{self.name}: {figures} (target {limit}: {'met' if self.met else 'MISSED'})"
        return f"{words}; {self.note}" if self.note else words


def parser(doc: str | None, runs: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=runs, help="timed runs of each side (default: %(default)s)")
    options.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options.add_argument("--smoke", action="store_true", help="one run of next to no work: does it work at all?")
    return options


def report(results: Sequence[Result], as_json: bool) -> None:
    """Prints the results with the machine they were taken on."""
    if as_json:
        found = [{**asdict(result), "value": result.value, "met": result.met} for result in results]
        print(json.dumps({"machine": machine(), "results": found}, indent=1))
        return
    print(machine())
    for result in results:
        print(result)


def machine() -> str:
    """Processor, cores, Python and the load at the moment."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores, {name}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"


def fashion(images: int | None = None) -> Data:
    """Fashion-MNIST, or its first `images` of each split; ends the program where it cannot be had."""
    dataset = FashionMnist()
    try:
        dataset.check()
        data = dataset.load()
    except BadInput as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")

    def few(split: Split) -> Split:
        return Split(split.x[:images], split.y[:images])

    return Data(data.name, few(data.train), few(data.val), few(data.test), data.classes, data.scale, data.offset)


def few(folder: Path, images: int) -> list[str]:
    """Writes the first images of Fashion-MNIST to a file; returns the overrides that make it the data set."""
    train = fashion(images).train
    np.savez(folder / "few.npz", x=train.x, y=train.y)
    return ["dataset=arrays", f"dataset.path={folder / 'few.npz'}"]


def output(command: Sequence[str], folder: Path) -> str:
    """What a command prints, run in a folder; ends the program where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}{done.stdout}")
    return done.stdout


def lightexp(words: Sequence[str], folder: Path) -> str:
    """What a lightexp command prints; see `output`."""
    return output([str(Path(sys.executable).parent / "lightexp"), *words], folder)


def ended(folder: Path, study: str) -> list[Any]:
    """A study's trials from its journal below a folder, in the order they ended; ends the program if one failed."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = folder / "outputs" / "searches" / study / "journal.log"
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    trials = optuna.load_study(study_name=study, storage=storage).trials
    if failed := [t.user_attrs["outcome"]["reason"] for t in trials if t.state is optuna.trial.TrialState.FAIL]:
        sys.exit(f"{Path(sys.argv[0]).name}: a trial failed: {failed[0]}")
    return sorted(trials, key=lambda trial: trial.datetime_complete)


def hourly(trials: Sequence[Any], workers: int = 1) -> float:
    """Trials an hour, from when each worker has ended its first, in which it imports and loads."""
    first, last = trials[workers - 1].datetime_complete, trials[-1].datetime_complete
    return 3600 * (len(trials) - workers) / float((last - first).total_seconds())


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.4g} ({min(values):,.4g}-{max(values):,.4g})"
