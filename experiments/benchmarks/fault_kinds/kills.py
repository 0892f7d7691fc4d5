"""Commands that are killed with SIGKILL at random moments: nothing finished is lost, and no process is left."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from optuna.trial import TrialState

from fault_kinds.attempts import Attempt, Lost
from lightexp.core.protocols import TFLITE
from lightexp.core.store import DRAFTS, QUARANTINE, Store
from tests.cli.commands import environment, mlflow_status, read_records
from tests.command_server import run_command
from tests.processes import MARKER, wait_for_end
from tests.search.studies import SECONDS, Studies

RUN = ["run", "model=lenet_300_100", "model.width=0.1", "pipeline.stages.train.epochs=1", "measure=quick"]
RUN += ["pipeline.stages.prune.epochs=1", "runtime.threads=1"]
TRIALS = 6
PATIENCE_S = 300.0  # for a command on a busy machine
GRACE_S = 30.0  # a process that is still importing notices the end of its parent once it has imported


@contextmanager
def prepare_run(folder: Path) -> Iterator[Attempt]:
    """Each attempt kills `lightexp run` and runs it again; the first run ends by itself and says what to expect."""
    start = time.monotonic()
    _finish(RUN, folder)
    seconds = time.monotonic() - start
    model = _read_model(folder)

    def attempt(rng: random.Random) -> None:
        own = Path(tempfile.mkdtemp(dir=folder))
        _kill(RUN, own, environment(), rng.uniform(0, seconds))
        _finish(RUN, own)
        _check_outputs(own / "outputs")
        if _read_model(own) != model:
            raise Lost("the model has other bytes than without the kill")

    yield attempt


@contextmanager
def prepare_search(folder: Path) -> Iterator[Attempt]:
    """Each attempt kills `lightexp search` with two workers, and continues it to its end."""

    def attempt(rng: random.Random) -> None:
        own = Path(tempfile.mkdtemp(dir=folder))
        study = Studies(own, tracking="mlflow")
        trials = [f"search.trials={TRIALS}", "search.workers=2", "search.corners=[]", f"{SECONDS}=0.3"]
        command = study.command(*trials)[1:]
        _kill(command, own, study.environment(), rng.uniform(0, 12))
        finished = study.run(*trials)
        if finished.returncode:
            raise Lost(f"the next search ended with {finished.returncode}: {finished.stderr[-300:]!r}")
        states = [trial.state for trial in study.list_trials()]
        if states != [TrialState.COMPLETE] * TRIALS:
            raise Lost(f"the trials are {[state.name for state in states]}")
        _check_store(study.outputs / "store")
        _check_mlflow(study.outputs)

    yield attempt


def _kill(command: Sequence[str], folder: Path, variables: dict[str, str], seconds: float) -> None:
    """Kill a command, alone, after some seconds, and wait until its other processes have ended."""
    marker = uuid.uuid4().hex
    with suppress(subprocess.TimeoutExpired):
        run_command(command, folder, {**variables, MARKER: marker}, seconds)
    left = wait_for_end(marker, GRACE_S)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    if left:
        raise Lost(f"{len(left)} processes are left: {[command[:200] for command in left.values()]}")


def _finish(command: Sequence[str], folder: Path) -> None:
    finished = run_command(command, folder, environment(), PATIENCE_S)
    if finished.returncode:
        raise Lost(f"the next run ended with {finished.returncode}: {finished.stderr[-300:]!r}")


def _read_model(folder: Path) -> bytes:
    """Return the bytes that the last run in a folder has shipped."""
    outputs = folder / "outputs"
    return (outputs / "runs" / read_records(outputs)[-1].id / TFLITE).read_bytes()


def _check_outputs(outputs: Path) -> None:
    *killed, finished = [record.status for record in read_records(outputs)]
    if finished != "done" or not set(killed) <= {"killed", "done"}:
        raise Lost(f"the records are {[*killed, finished]}")
    _check_store(outputs / "store")
    _check_mlflow(outputs)


def _check_store(root: Path) -> None:
    store = Store(root)
    if broken := [path.name for path in root.glob("entries/*/*") if store.check(path.name) is None]:
        raise Lost(f"entries of the store are broken: {broken}")
    if left := [path.name for name in (DRAFTS, QUARANTINE) for path in (root / name).glob("*")]:
        raise Lost(f"the store has left {left}")


def _check_mlflow(outputs: Path) -> None:
    if "RUNNING" in (statuses := list(mlflow_status(outputs).values())):
        raise Lost(f"MLflow's runs are {statuses}")
