"""What the store saves of `01_article`'s stage time, against the same rows run separately.

Every row and seed runs alone, with an empty store; then `lightexp ablate` runs them all. The possible saving is the
time of the separate runs' stages, less each different stage once (at the mean of its separate times); the actual
saving is their time less that of the ablation's stages, where a stage that it ran twice counts twice. The result is
their ratio.

    python experiments/benchmarks/store_saving.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np
from common import Result, load_fashion, make_parser, print_results
from omegaconf import OmegaConf

import lightexp
from lightexp.ablation.spec import AblationSpec, read_spec
from lightexp.core.store_entry import ENTRIES, MANIFEST

FILE = Path(__file__).parents[1] / "01_article.yaml"
TARGET = 0.9
QUICK = ["tracking=none", "measure=quick"]
FEW = ("control", "distill+prune")


def main() -> None:
    """Run the rows separately and together."""
    options = make_parser(__doc__, runs=1)
    options.add_argument("--seeds", type=int, help="the first few (default: all of the file)")
    options.add_argument("--epochs", type=int, help="of each stage (default: as in the file)")
    chosen = options.parse_args()
    load_fashion()  # so that it is downloaded
    saved, possible, notes = [], [], []
    for _ in range(1 if chosen.smoke else chosen.runs):
        with tempfile.TemporaryDirectory() as folder:
            file, words = shorten_spec(Path(folder), chosen.seeds, chosen.epochs, chosen.smoke)
            separate, first = run_separately(read_spec(file, words), Path(folder))
            spent, second = run_together(file, words, Path(folder) / "together")
        total = sum(map(sum, separate.values()))
        saved.append(total - spent)
        possible.append(total - sum(map(fmean, separate.values())))
        notes.append(
            f"stages took {total:.1f} s separately and {spent:.1f} s together, {sum(map(len, separate.values()))} and "
            f"{len(separate)} of them; with all that is not a stage's {first:.0f} s and {second:.0f} s"
        )
    print_results([Result("saved of what can be", saved, possible, "s", TARGET, True, "; ".join(notes))], chosen.json)


def shorten_spec(folder: Path, seeds: int | None, epochs: int | None, smoke: bool) -> tuple[Path, list[str]]:
    """Return a copy of the ablation's file in `folder`, shortened as requested, and overrides."""
    values = OmegaConf.load(FILE)
    values.seeds = values.seeds[: 1 if smoke else seeds]
    words = list(QUICK)
    if smoke:
        few = load_fashion(400).train
        np.savez(folder / "few.npz", x=few.x, y=few.y)
        values.rows = {name: values.rows[name] for name in FEW}
        words += ["dataset=arrays", f"dataset.path={folder / 'few.npz'}"]
        words += ["pipeline.stages.prune.end_step=4", "pipeline.stages.prune.frequency=2"]
    if smoke or epochs:
        words += [f"pipeline.stages.{stage}.epochs={epochs or 1}" for stage in ("train", "prune", "distill")]
    OmegaConf.save(values, folder / FILE.name)
    return folder / FILE.name, words


def run_separately(study: AblationSpec, folder: Path) -> tuple[dict[str, list[float]], float]:
    """Run each row and seed; return each stage's seconds by key in all runs that made it, and the total wall time."""
    stage_seconds: defaultdict[str, list[float]] = defaultdict(list)
    start = time.perf_counter()
    for number, (row, seed) in enumerate((row, seed) for seed in study.seeds for row in study.rows):
        outputs = folder / f"separate-{number}"
        lightexp.run([*row.overrides, f"seed={seed}", f"paths.outputs={outputs}"])
        for key, seconds in read_seconds(outputs).items():
            stage_seconds[key].append(seconds)
    return stage_seconds, time.perf_counter() - start


def run_together(file: Path, words: list[str], outputs: Path) -> tuple[float, float]:
    """Run the ablation; return the seconds spent in stages, and the wall time."""
    start = time.perf_counter()
    command = [str(Path(sys.executable).parent / "lightexp"), "ablate", str(file), *words, f"paths.outputs={outputs}"]
    completed = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if completed.returncode:
        sys.exit(f"{' '.join(command)} ended with {completed.returncode}:\n{completed.stderr}")
    seconds = time.perf_counter() - start
    entries = read_seconds(outputs)
    stages = [
        stage
        for path in (outputs / "runs").glob("*/record.json")
        for stage in json.loads(path.read_text(encoding="utf-8"))["stages"]
    ]
    executed = [(stage["key"], stage["seconds"]) for stage in stages if not stage["from_store"]]
    repeated = sum(s for _, s in executed) - sum(entries[key] for key in {key for key, _ in executed})
    return sum(entries.values()) + repeated, seconds


def read_seconds(outputs: Path) -> dict[str, float]:
    """Return the seconds of each entry of a store, by key."""
    paths = (outputs / "store" / ENTRIES).glob(f"*/*/{MANIFEST}")
    return {path.parent.name: float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) for path in paths}


if __name__ == "__main__":
    main()
