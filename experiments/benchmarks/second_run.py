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

from common import Result, parser, report

TARGET = 4.0
SMALL = ["pipeline=control", "model=lenet_300_100", "tracking=none", "measure=quick", "pipeline.stages.train.epochs=1"]


def main() -> None:
    """Runs the main job again and again."""
    chosen = parser(__doc__, runs=5).parse_args()
    words = SMALL if chosen.smoke else []
    with tempfile.TemporaryDirectory() as folder:
        first = _seconds(words, folder)
        again = [_seconds(words, folder) for _ in range(1 if chosen.smoke else chosen.runs)]
    note = f"the first run, everything included: {first:.1f} s"
    report([Result("second run", again, [], "s", TARGET, at_least=False, note=note)], chosen.json)


def _seconds(words: list[str], folder: str) -> float:
    start = time.perf_counter()
    command = [str(Path(sys.executable).parent / "lightexp"), "run", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
