"""entries of a store, and the records that name them: `has`, `put`, `ls` and `gc`.

Stores of 10, 1,000 and 100,000 entries are written with true manifests, locks and index, as `Store.ensure` leaves
them, without its waiting for the disk. 10,000 records, each of a run of five stages, name entries of the largest.
`has` and `put` are processor seconds of an object that has not seen the store before; the commands' are wall time.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from common import Result

from lightexp.core.fingerprint import hash_file
from lightexp.core.metrics import Metric
from lightexp.core.record import Record, StageRecord
from lightexp.core.records import RUNS
from lightexp.core.store import LOCKS, Store
from lightexp.core.store_entry import write_manifest
from lightexp.core.store_index import INDEX, append_rows, make_row
from lightexp.runner.compose import compose_settings

SIZES, SMOKE_SIZES = (10, 1000, 100_000), (10, 20, 40)
RECORDS, SMOKE_RECORDS = 10_000, 10
STAGES = ("train", "prune", "cluster", "qat", "encode")
CALLS, PUTS, TURNS = 1000, 20, 5


def measure(smoke: bool) -> list[Result]:
    """Measure stores of growing size."""
    sizes = SMOKE_SIZES if smoke else SIZES
    turns = 1 if smoke else TURNS
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / str(size) for size in sizes]
        for size, place in zip(sizes, outputs, strict=True):
            print(f"store: writing {size:,} entries", file=sys.stderr)
            fill_store(place / "store", size)
        write_records(outputs[-1], SMOKE_RECORDS if smoke else RECORDS, sizes[-1])
        timed: dict[Callable[[Path, int, int], float], list[list[float]]] = {time_has: [], time_put: []}
        for turn in range(turns):
            for measured, values in timed.items():
                values.append(
                    [measured(place / "store", size, turn) for size, place in zip(sizes, outputs, strict=True)]
                )
        results = [
            make_growth_result("has", timed[time_has], sizes),
            make_growth_result("put", timed[time_put], sizes),
        ]
        return [*results, *measure_commands(outputs[-1], sizes[-1], turns=1 if smoke else 3)]


def fill_store(root: Path, size: int) -> None:
    """Write entries with two files each."""
    rows = []
    store = Store(root)
    (root / LOCKS).mkdir(parents=True)
    for number in range(size):
        key = make_key(number)
        folder = store.folder(key)
        folder.mkdir(parents=True)
        (folder / "model.tflite").write_bytes(b"%d" % number * 50)
        (folder / "weights.npz").write_bytes(b"%d" % number * 70)
        files = {path.name: hash_file(path) for path in sorted(folder.iterdir())}
        stage = STAGES[number % len(STAGES)]
        facts = {"history": {"loss": [0.5, 0.4, 0.3]}, "epochs": 3}
        manifest = {"key": key, "kind": f"{stage.title()} {stage}", "made": time.time(), "seconds": 1.5}
        manifest |= {"cpu_seconds": 1.4, "facts": facts, "files": files}
        write_manifest(manifest, folder)
        (root / LOCKS / f"{key}.lock").touch()
        rows.append(make_row(folder, manifest))
    append_rows(root, rows)


def make_key(number: int) -> str:
    """Return the key of an entry; negative numbers are those of no entry."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def write_records(outputs: Path, count: int, entries: int) -> None:
    """Write records of finished runs, which name the first entries again and again."""
    config = dict(compose_settings(["pipeline=prune_cluster_qat"]).plain)
    values = [Metric(f"model/metric_{number}", number / 7, "", "min") for number in range(25)]
    for number in range(count):
        keys = [make_key((number * len(STAGES) + i) % entries) for i in range(len(STAGES))]
        stages = [StageRecord(n, key, False, 1.5, values) for n, key in zip(STAGES, keys, strict=True)]
        run_id = f"2026-01-01_00-00-00-{number:06x}"
        record = Record(run_id, "cnn digits prune", "lightexp run", config, [], {}, 1.7e9 + number, "done", keys=keys)
        record.stages, record.ended = stages, 1.7e9 + number + 60
        folder = outputs / RUNS / run_id
        folder.mkdir(parents=True)
        record.write(folder)


def time_has(root: Path, size: int, turn: int) -> float:
    """Return the microseconds of processor time that `has` takes, of entries and of others."""
    store = Store(root)
    keys = [make_key(number) for i in range(CALLS // 2) for number in ((i * 7919 + turn) % size, -1 - i)]
    start = time.process_time()
    for key in keys:
        store.has(key)
    return (time.process_time() - start) / len(keys) * 1e6


def time_put(root: Path, size: int, turn: int) -> float:
    """Return the milliseconds of processor time that a new entry takes."""
    store = Store(root)
    seconds = []
    for number in range(PUTS):
        start = time.process_time()
        _, existed = store.ensure(make_key(size + turn * PUTS + number), "Train train", write_files)
        seconds.append(time.process_time() - start)
        assert not existed
    store.release()
    return median(seconds) * 1e3


def write_files(folder: Path) -> dict[str, Any]:
    """Write what an entry holds."""
    (folder / "model.tflite").write_bytes(bytes(200))
    (folder / "weights.npz").write_bytes(bytes(300))
    return {"history": {"loss": [0.5, 0.4, 0.3]}, "epochs": 3}


def make_growth_result(name: str, turns: Sequence[Sequence[float]], sizes: Sequence[int]) -> Result:
    """Compare the largest store with the smallest; the note has the median at each size."""
    unit = "us" if name == "has" else "ms"
    medians = [median(turn[i] for turn in turns) for i in range(len(sizes))]
    note = ", ".join(f"{size:,}: {value:.3g} {unit}" for size, value in zip(sizes, medians, strict=True))
    largest, smallest = [turn[-1] for turn in turns], [turn[0] for turn in turns]
    return Result(f"{name} at {sizes[-1]:,} entries against {sizes[0]}", largest, smallest, unit, 1.2, False, note)


@dataclass(frozen=True)
class CommandCost:
    """What a command has cost: wall seconds, processor seconds, and MB at its peak."""

    seconds: float
    cpu_seconds: float
    megabytes: float


def measure_commands(outputs: Path, entries: int, turns: int) -> list[Result]:
    """Run `ls` and `gc` as commands."""
    commands = {"ls": ["ls"], "gc --unreferenced": ["gc", "--dry-run", "--unreferenced"]}
    results = []
    for (name, arguments), target in zip(commands.items(), (2.0, 20.0), strict=True):
        costs = [run_store_command(arguments, outputs) for _ in range(turns)]
        note = f"{median(c.cpu_seconds for c in costs):.2f} s of processor, {max(c.megabytes for c in costs):.0f} MB"
        if name == "ls" and turns > 1:
            (outputs / "store" / INDEX).unlink()
            note += f"; once, without its index, {run_store_command(arguments, outputs).seconds:.1f} s"
        records = len(os.listdir(outputs / RUNS))
        title = f"store {name} of {entries:,} entries, {records:,} records"
        results.append(Result(title, [cost.seconds for cost in costs], [], "s", target, False, note))
    return results


def run_store_command(arguments: Sequence[str], outputs: Path) -> CommandCost:
    """Run `lightexp store`; exit if it fails."""
    command = [str(Path(sys.executable).parent / "lightexp"), "store", *arguments, f"paths.outputs={outputs}"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return CommandCost(time.perf_counter() - start, cpu_seconds, usage.ru_maxrss / 1024)
