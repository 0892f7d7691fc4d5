"""Shared by the benchmarks: data, options, running of commands, and the printing of ratios with the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
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
        ours: lightexp's values, one per run.
        theirs: The other side's values, taken in turn with `ours`; empty if there is no other side.
        unit: Unit of the values.
        target: Limit on the median ratio, or on the median itself without `theirs`.
        at_least: Whether the target is a lower limit.
        note: Additional remarks.
        facts: Numbers and names in the note, by name, for other programs.
    """

    name: str
    ours: list[float]
    theirs: list[float]
    unit: str
    target: float
    at_least: bool
    note: str = ""
    facts: dict[str, float | str] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """Median of the ratios of runs made in turn, which a changing load affects alike; or median of `ours`."""
        pairs = zip(self.ours, self.theirs or [1.0] * len(self.ours), strict=True)
        return statistics.median(mine / other for mine, other in pairs)

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.value >= self.target if self.at_least else self.value <= self.target

    def __str__(self) -> str:
        figures = f"ours {format_spread(self.ours)}"
        figures += (
            f", theirs {format_spread(self.theirs)} {self.unit}: {self.value:.2f}x" if self.theirs else f" {self.unit}"
        )
        limit = f"{'at least' if self.at_least else 'at most'} {self.target:g}"
        message = f"{self.name}: {figures} (target {limit}: {'met' if self.met else 'MISSED'})"
        return f"{message}; {self.note}" if self.note else message


def make_parser(doc: str | None, runs: int | None = None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark; without `runs`, of one that times nothing."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if runs is not None:
        options.add_argument("--runs", type=int, default=runs, help="timed runs of each side (default: %(default)s)")
    options.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options.add_argument("--smoke", action="store_true", help="one very short run, to see that the benchmark works")
    return options


def print_results(results: Sequence[Result], as_json: bool) -> None:
    """Print the results with a description of the machine."""
    if as_json:
        rows = [{**asdict(result), "value": result.value, "met": result.met} for result in results]
        print(json.dumps({"machine": describe_machine(), "results": rows}, indent=1))
        return
    print(describe_machine())
    for result in results:
        print(result)


def describe_machine() -> str:
    """Return cores, processor, Python version and present load."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores, {name}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"


def load_fashion(images: int | None = None) -> Data:
    """Return Fashion-MNIST, or its first `images` of each split; exit if it is not available."""
    dataset = FashionMnist()
    try:
        dataset.check()
        data = dataset.load()
    except BadInput as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")

    def take_first(split: Split) -> Split:
        return Split(split.x[:images], split.y[:images])

    return Data(
        data.name,
        take_first(data.train),
        take_first(data.val),
        take_first(data.test),
        data.classes,
        data.scale,
        data.offset,
    )


def write_few(folder: Path, images: int) -> list[str]:
    """Write the first images of Fashion-MNIST to a file; return the overrides that select it as data set."""
    train = load_fashion(images).train
    np.savez(folder / "few.npz", x=train.x, y=train.y)
    return ["dataset=arrays", f"dataset.path={folder / 'few.npz'}"]


def run_command(command: Sequence[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run a command in a folder and return what it prints; exit if it fails. It may have another environment."""
    completed = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)
    if completed.returncode:
        sys.exit(f"{' '.join(command)} ended with {completed.returncode}:\n{completed.stderr}{completed.stdout}")
    return completed.stdout


def run_lightexp(arguments: Sequence[str], folder: Path) -> str:
    """Run a lightexp command and return what it prints; see `run_command`."""
    return run_command([str(Path(sys.executable).parent / "lightexp"), *arguments], folder)


def list_ended_trials(folder: Path, study: str) -> list[Any]:
    """Return a study's trials from its journal below a folder, in the order they ended; exit if one failed."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = folder / "outputs" / "searches" / study / "journal.log"
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    trials = optuna.load_study(study_name=study, storage=storage).trials
    if failed := [t.user_attrs["outcome"]["reason"] for t in trials if t.state is optuna.trial.TrialState.FAIL]:
        sys.exit(f"{Path(sys.argv[0]).name}: a trial failed: {failed[0]}")
    return sorted(trials, key=lambda trial: trial.datetime_complete)


def count_per_hour(trials: Sequence[Any], workers: int = 1) -> float:
    """Return trials per hour, from when each worker has ended its first, in which it imports and loads."""
    first, last = trials[workers - 1].datetime_complete, trials[-1].datetime_complete
    return 3600 * (len(trials) - workers) / float((last - first).total_seconds())


def format_spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.4g} ({min(values):,.4g}-{max(values):,.4g})"
