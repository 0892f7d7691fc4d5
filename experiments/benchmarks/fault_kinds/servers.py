"""MLflow servers and databases that are slow, hang or hold nonsense: no record is lost, and no command waits."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fault_kinds.attempts import Attempt, Lost, call, run_command
from lightexp.core.record import read_record
from lightexp.tracking import fetch, stores
from lightexp.tracking.mlflow import Mlflow
from tests.fuzz import draw_mutant
from tests.stand_in_servers import StandInServer, serve
from tests.synthetic import synthesize_records, write_records

LIMIT_S, SLACK_S = 0.5, 10.0  # of an exchange, and for all else that a command does on a busy machine
ENDPOINTS = (
    "experiments/get-by-name",
    "experiments/search",
    "experiments/create",
    "runs/search",
    "runs/create",
    "runs/get",
    "runs/log-batch",
    "artifacts",
)


@contextmanager
def prepare(folder: Path) -> Iterator[Attempt]:
    """Each attempt sends runs to a server that misbehaves, and reads a report from it."""
    stores.import_mlflow()  # before anything is timed
    outputs = write_records(folder / "outputs", itertools.islice(synthesize_records(1), 2))
    records = {path.parent: read_record(path.parent) for path in outputs.glob("runs/*/record.json")}
    limit = f"tracking.timeout_s={LIMIT_S}"

    def attempt(rng: random.Random) -> None:
        for run_folder, record in records.items():
            record.write(run_folder)
        with serve(**_draw_behaviour(rng)) as server:
            server.answers |= _draw_answers(server, rng)
            start = time.monotonic()
            run_command("track", "sync", f"paths.outputs={outputs}", f"tracking.uri={server.url}", limit, lines=4)
            out = f"out={folder / 'report'}"
            run_command("report", f"tracking.uri={server.url}", "tracking.experiment=lightexp", limit, out, lines=4)
            if (seconds := time.monotonic() - start) > 2 * LIMIT_S + SLACK_S:
                raise Lost(f"the server held the commands for {seconds:.1f} s")
        for run_folder, record in records.items():
            if replace(read_record(run_folder), mlflow={}) != replace(record, mlflow={}):
                raise Lost(f"the record of {record.id} has changed")

    yield attempt


@contextmanager
def prepare_databases(folder: Path) -> Iterator[Attempt]:
    """Each attempt reads a report from a copy of MLflow's database in which bytes were changed."""
    outputs = write_records(folder / "outputs", itertools.islice(synthesize_records(1), 2))
    stores.prepare_database(outputs / "mlflow.db", outputs)  # takes long on a busy machine
    run_command("track", "sync", f"paths.outputs={outputs}")
    content = (outputs / "mlflow.db").read_bytes()
    used = [position for position, byte in enumerate(content) if byte]  # most of a page is empty

    def attempt(rng: random.Random) -> None:
        path = folder / f"{rng.getrandbits(64)}.db"  # MLflow remembers what it has seen at a path
        altered = bytearray(content)
        for position in rng.sample(used, rng.choice([1, 8, 100])):
            altered[position] ^= rng.randrange(1, 256)
        path.write_bytes(altered)
        call(lambda: list(fetch.download_records(Mlflow(f"sqlite:///{path}"), [])))
        path.unlink()

    yield attempt


def _draw_behaviour(rng: random.Random) -> dict[str, Any]:
    form = rng.choice(["drips", "hangs", "answers", "answers"])
    if form == "drips":
        return {"drips": True}
    if form == "hangs":
        return {"hangs_after": rng.randrange(12)}
    return {"artifact": rng.randbytes(rng.randrange(1000))}


def _draw_answers(server: StandInServer, rng: random.Random) -> dict[str, Callable[[Any], Any]]:
    """Return mutants of the sound answers of some endpoints."""
    if rng.random() < 0.5:
        server.answers["runs/search"] = lambda answer: {"runs": []}  # so that runs are created
    answers = {}
    for endpoint in rng.sample(ENDPOINTS, rng.randrange(1, 3)):
        mutant = draw_mutant({"answer": server.answer(endpoint)}, rng).get("answer")
        answers[endpoint] = lambda answer, mutant=mutant: mutant
    return answers
