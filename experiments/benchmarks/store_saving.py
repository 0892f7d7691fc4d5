"""What the store saves of `01_article`'s stage time, against the same rows run separately.

Every row and seed runs by itself, with a store of its own; then `lightexp ablate` runs them all. Possible is what the
separate runs' stages took, less each different stage once (at the mean of its separate times); saved is what they took,
less what the ablation's stages took, one that it made twice counted twice. Both beside each other are the result.

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
from common import Result, fashion, parser, report
from omegaconf import OmegaConf

import lightexp
from lightexp.ablation.spec import AblationSpec, read_spec
from lightexp.core.store import ENTRIES, MANIFEST

FILE = Path(__file__).parents[1] / "01_article.yaml"
TARGET = 0.9
QUICK = ["tracking=none", "measure=quick"]
FEW = ("control", "distill+prune")


def main() -> None:
    """Runs the rows separately and together."""
    options = parser(__doc__, runs=1)
    options.add_argument("--seeds", type=int, help="the first few (default: all of the file)")
    options.add_argument("--epochs", type=int, help="of each stage (default: as in the file)")
    chosen = options.parse_args()
    fashion()  # that it is there
    saved, possible, notes = [], [], []
    for _ in range(1 if chosen.smoke else chosen.runs):
        with tempfile.TemporaryDirectory() as folder:
            file, words = _shortened(Path(folder), chosen.seeds, chosen.epochs, chosen.smoke)
            separate, first = _separately(read_spec(file, words), Path(folder))
            spent, second = _together(file, words, Path(folder) / "together")
        whole = sum(map(sum, separate.values()))
        saved.append(whole - spent)
        possible.append(whole - sum(map(fmean, separate.values())))
        notes.append(
            f"stages took {whole:.1f} s separately and {spent:.1f} s together, {sum(map(len, separate.values()))} and "
            f"{len(separate)} of them; with all that is not a stage's {first:.0f} s and {second:.0f} s"
        )
    report([Result("saved of what can be", saved, possible, "s", TARGET, True, "; ".join(notes))], chosen.json)


def _shortened(folder: Path, seeds: int | None, epochs: int | None, smoke: bool) -> tuple[Path, list[str]]:
    """The ablation's file where its results disturb nobody, and overrides."""
    values = OmegaConf.load(FILE)
    values.seeds = values.seeds[: 1 if smoke else seeds]
    words = list(QUICK)
    if smoke:
        few = fashion(400).train
        np.savez(folder / "few.npz", x=few.x, y=few.y)
        values.rows = {name: values.rows[name] for name in FEW}
        words += ["dataset=arrays", f"dataset.path={folder / 'few.npz'}"]
        words += ["pipeline.stages.prune.end_step=4", "pipeline.stages.prune.frequency=2"]
    if smoke or epochs:
        words += [f"pipeline.stages.{stage}.epochs={epochs or 1}" for stage in ("train", "prune", "distill")]
    OmegaConf.save(values, folder / FILE.name)
    return folder / FILE.name, words


def _separately(study: AblationSpec, folder: Path) -> tuple[dict[str, list[float]], float]:
    """Seconds of each stage, by key, in all runs that made it; and of everything."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    start = time.perf_counter()
    for number, (row, seed) in enumerate((row, seed) for seed in study.seeds for row in study.rows):
        outputs = folder / f"separate-{number}"
        lightexp.run([*row.overrides, f"seed={seed}", f"paths.outputs={outputs}"])
        for key, seconds in _entries(outputs).items():
            found[key].append(seconds)
    return found, time.perf_counter() - start


def _together(file: Path, words: list[str], outputs: Path) -> tuple[float, float]:
    """Seconds that the ablation spent in stages, and in everything."""
    start = time.perf_counter()
    command = [str(Path(sys.executable).parent / "lightexp"), "ablate", str(file), *words, f"paths.outputs={outputs}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    seconds = time.perf_counter() - start
    entries = _entries(outputs)
    stages = [
        stage for path in (outputs / "runs").glob("*/record.json") for stage in json.loads(path.read_text())["stages"]
    ]
    made = [(stage["key"], stage["seconds"]) for stage in stages if not stage["from_store"]]
    again = sum(s for _, s in made) - sum(entries[key] for key in {key for key, _ in made})
    return sum(entries.values()) + again, seconds


def _entries(outputs: Path) -> dict[str, float]:
    """Seconds of each entry of a store, by key."""
    paths = (outputs / "store" / ENTRIES).glob(f"*/*/{MANIFEST}")
    return {path.parent.name: float(json.loads(path.read_text())["seconds"]) for path in paths}


if __name__ == "__main__":
    main()
