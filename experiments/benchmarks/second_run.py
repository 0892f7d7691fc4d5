"""Wall seconds of the main job's identical second run, which trains nothing and loads no TensorFlow.

`lightexp run` with no settings, in a new folder: once to fill the store, then timed from the command to its end.

    python experiments/benchmarks/second_run.py --runs 5
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Result, make_parser, print_results

TARGET = 4.0
SMALL = ["pipeline=control", "model=lenet_300_100", "tracking=none", "measure=quick", "pipeline.stages.train.epochs=1"]


def main() -> None:
    """Run the main job repeatedly."""
    chosen = make_parser(__doc__, runs=5).parse_args()
    overrides = SMALL if chosen.smoke else []
    with tempfile.TemporaryDirectory() as folder:
        first = time_run(overrides, folder)
        seconds = [time_run(overrides, folder) for _ in range(1 if chosen.smoke else chosen.runs)]
    note = f"the first run, everything included: {first:.1f} s"
    print_results([Result("second run", seconds, [], "s", TARGET, at_least=False, note=note)], chosen.json)


def time_run(overrides: list[str], folder: str) -> float:
    """Run the command and return its wall seconds."""
    start = time.perf_counter()
    command = [str(Path(sys.executable).parent / "lightexp"), "run", *overrides]
    completed = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    if completed.returncode:
        sys.exit(f"{' '.join(command)} ended with {completed.returncode}:\n{completed.stderr}")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
