"""Processor seconds of the commands that only answer: guides, descriptions, help. They compute on one thread.

python experiments/benchmarks/answering.py --runs 5
"""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path

from common import Result, make_parser, print_results, run_lightexp

TARGET = 0.5
COMMANDS = ("guide keras", "describe", "describe stage", "describe stage/prune", "describe dataset/arrays")
HELPS = ("run", "search", "ablate", "report", "export", "store", "track", "ui")


def main() -> None:
    """Time each command repeatedly."""
    chosen = make_parser(__doc__, runs=5).parse_args()
    commands = COMMANDS[:1] if chosen.smoke else (*COMMANDS, *(f"{name} --help" for name in HELPS))
    runs = 1 if chosen.smoke else chosen.runs
    with tempfile.TemporaryDirectory() as folder:
        results = [
            Result(command, [time_command(command, Path(folder)) for _ in range(runs)], [], "s", TARGET, at_least=False)
            for command in commands
        ]
    print_results(results, chosen.json)


def time_command(command: str, folder: Path) -> float:
    """Run a command and return its processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_lightexp(command.split(), folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
