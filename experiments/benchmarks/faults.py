"""A campaign of faults: what is tried, and what is lost.

Each attempt makes one fault at random and checks what lightexp promises of it. Lost is, by kind:

    kill run         `kill -9` of a run at a random moment: a store entry is broken, the next run does not finish or
                     ships other bytes, a record does not say what happened, MLflow shows a run as running, a process
                     is left
    kill search      `kill -9` of a search with two workers: the same for its trials, each of which must count once
    store entry      a byte, value or file of a store entry changed, removed or added: the entry is served
    record           a value of a record of another type or size: a traceback, or no clear line
    config           the same for a complete config
    ablation file    the same for an ablation's file, or bytes of it changed
    model file       the same for the architecture of a Keras file; or bytes of a .h5, .keras or .tflite changed
    data file        bytes of a .npz changed: a traceback, or no clear line
    encoded model    bytes of a .lxe changed, also behind a right checksum: the same, or it decodes to other bytes
                     although its checksum is wrong
    path             a named pipe, a device, a folder or a link to itself in the place of a file that a command or
                     setting names: the command hangs, a traceback, or no clear line
    hostile config   a node that names a function, anywhere in a config: the function is called, or the config is
                     accepted
    MLflow server    a server that is slow, hangs or answers nonsense: a command waits for it, a traceback, a record
                     has changed
    MLflow database  bytes of an mlflow.db changed: a report that hangs, a traceback, or no clear line

A clear line is one line of errors with exit code 1 or 2. A hang takes a minute where a second is needed.

    python experiments/benchmarks/faults.py
    python experiments/benchmarks/faults.py --long
    python experiments/benchmarks/faults.py --only record --seed 1
"""

from __future__ import annotations

import random
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

from common import Result, describe_machine, make_parser, print_results

sys.path.insert(0, str(Path(__file__).parents[2]))
from fault_kinds import configs, files, kills, paths, servers, store_entries
from fault_kinds.attempts import Attempt, Kind

from tests.special_files import DeadlineExceeded

LONG = 20  # times as many tries
KINDS = (
    Kind("kill run", 6, kills.prepare_run, is_short=False),
    Kind("kill search", 2, kills.prepare_search, is_short=False),
    Kind("store entry", 500, store_entries.prepare),
    Kind("record", 200, files.prepare_records),
    Kind("config", 200, files.prepare_configs),
    Kind("ablation file", 50, files.prepare_ablations),
    Kind("model file", 100, files.prepare_models),
    Kind("data file", 300, files.prepare_data),
    Kind("encoded model", 200, files.prepare_encoded),
    Kind("path", 100, paths.prepare),
    Kind("hostile config", 50, configs.prepare),
    Kind("MLflow server", 20, servers.prepare),
    Kind("MLflow database", 30, servers.prepare_databases, is_short=False),
)


@dataclass(frozen=True)
class Tally(Result):
    """The attempts of one kind, as a result: the share of them in which nothing was lost.

    Attributes:
        tried: Number of attempts.
        lost: Number of attempts in which something was lost.
    """

    tried: int = 0
    lost: int = 0


def main() -> int:
    """Make the attempts, print the table, and return 1 if anything was lost."""
    parser = make_parser(__doc__)
    parser.add_argument("--only", metavar="KIND", choices=[kind.name for kind in KINDS], help="one kind of fault")
    parser.add_argument("--seed", type=int, default=0, help="of all attempts (default: 0)")
    parser.add_argument("--number", type=int, help="one attempt, by its number; needs --only")
    parser.add_argument("--long", action="store_true", help=f"{LONG} times as many attempts")
    options = parser.parse_args()
    if options.number is not None and options.only is None:
        parser.error("--number needs --only KIND")
    kinds = [kind for kind in KINDS if options.only in (None, kind.name) and (kind.is_short or not options.smoke)]
    tallies = []
    for kind in kinds:
        tries = 1 if options.smoke else kind.tries * (LONG if options.long else 1)
        numbers = range(tries) if options.number is None else [options.number]
        tallies.append(run_attempts(kind, options.seed, numbers))
    if options.json:
        print_results(tallies, as_json=True)
    else:
        print(describe_machine())
        print(f"{'kind':<16}{'tried':>8}{'lost':>8}")
        for tally in tallies:
            print(f"{tally.name:<16}{tally.tried:>8,}{tally.lost:>8,}")
    return int(any(tally.lost for tally in tallies))


def run_attempts(kind: Kind, seed: int, numbers: range | list[int]) -> Tally:
    """Make attempts of one kind; print each that loses something on standard error, with how to repeat it."""
    lost = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, kind.prepare(Path(name)) as attempt:
        for number in numbers:
            if problem := find_loss(attempt, random.Random(f"{kind.name} {seed} {number}")):
                lost += 1
                print(f"lost: --only '{kind.name}' --seed {seed} --number {number}: {problem}", file=sys.stderr)
    share = (len(numbers) - lost) / len(numbers)
    return Tally(kind.name, [share], [], "of all attempts", 1.0, at_least=True, tried=len(numbers), lost=lost)


def find_loss(attempt: Attempt, rng: random.Random) -> str:
    """Return what an attempt has lost in one line; empty if nothing."""
    try:
        attempt(rng)
    except (Exception, DeadlineExceeded) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"{type(error).__name__}: {' '.join(str(error).split())[:600]} ({Path(frame.filename).name}:{frame.lineno})"
        )
    return ""


if __name__ == "__main__":
    sys.exit(main())
