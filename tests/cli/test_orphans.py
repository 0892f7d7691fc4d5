"""Commands that SIGKILL ends at random moments: every process that they have started ends soon after."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lightexp.tracking import stores
from tests.cli.commands import COMMAND, TINY, lightexp
from tests.processes import MARKER, find_processes, wait_for_end
from tests.search.launchers import use_launcher
from tests.search.studies import LEVEL, SECONDS, Studies, write_arrays

DEADLINE_S = 40.0  # a process that is still importing notices once it has imported
LONG = ["pipeline.stages.train.epochs=100000", "tracking=mlflow"]
SEARCH = [f"{LEVEL}=interval(0.1,1)", f"{SECONDS}=0.2", "search.trials=999", "search.workers=2"]
PER_LAYER = ["search", "search=mixed_precision", "search.trials=999", "search.workers=2", "tracking=none"]
API = "import lightexp; lightexp.{call}({arguments!r})"
DEFAULT = {"ablate": 0, "search per layer": 2, "sweep with joblib": 1}
"""Commands that are killed in each run of the tests, and when; with `--long` all are, at several moments each."""
ALL = (
    *DEFAULT,
    "run",
    "search",
    "search with joblib",
    "search with submitit_local",
    "search with ray",
    "run from python",
    "search from python",
    "ui",
    "report",
    "doctor",
    "verify",
)
MOMENTS = 5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Kill the commands of `DEFAULT` once, or with `--long` all commands at several moments."""
    is_long = metafunc.config.getoption("--long")
    cases = [(name, moment) for name in ALL for moment in range(MOMENTS)] if is_long else list(DEFAULT.items())
    metafunc.parametrize(("name", "moment"), cases)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def make_command(name: str, folder: Path, server: str, launcher: list[str]) -> list[str]:
    """Write what a command needs into a folder and return its command line."""
    study = Studies(folder)
    data = ["dataset=arrays", f"dataset.path={write_arrays(folder)}"]
    call, _, kind = name.partition(" ")
    if kind == "from python":
        overrides = [*TINY, *data, *LONG] if call == "run" else [*PER_LAYER[1:], *data]
        return [sys.executable, "-c", API.format(call=call, arguments=overrides)]
    if name == "ablate":
        base = [*data, *LONG, "model=lenet_300_100", "model.width=0.1", "measure=quick"]
        table = {"claim": "None.", "control": "control", "base": base, "rows": {"control": ["pipeline=control"]}}
        (folder / "table.yaml").write_text(yaml.safe_dump({**table, "seeds": [0, 1, 2]}))
        return [str(COMMAND), "ablate", "table.yaml", "workers=2"]
    if name == "verify":
        lightexp("run", *TINY, *data, "tracking=none", cwd=folder)
    if name == "ui":
        stores.prepare_database(folder / "outputs" / "mlflow.db", folder / "outputs" / "mlartifacts")
    commands = {
        "run": ["run", *TINY, *data, *LONG],
        "sweep with joblib": ["run", "-m", *TINY, *data, *LONG, "seed=0,1", *launcher],
        "search per layer": [*PER_LAYER, *data],
        "ui": ["ui", "--port", "0"],
        "report": ["report", f"tracking.uri={server}"],
        "doctor": ["doctor"],
        "verify": ["store", "verify", "--deep", "--every", "1"],
    }
    return [str(COMMAND), *commands[name]] if name in commands else study.command(*SEARCH, *launcher)


def test_killed_command_leaves_no_process(
    name: str, moment: int, tmp_path: Path, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = random.Random(f"{name} {moment}")
    count, delay = choices.randint(2, 6), choices.choice([0.0, 0.1, 0.5, 2.0])
    marker = uuid.uuid4().hex
    monkeypatch.setenv(MARKER, marker)
    with use_launcher(name.rpartition(" ")[2] if " with " in name else "joblib", monkeypatch) as launcher:
        command = make_command(name, tmp_path, silent_server, launcher)
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=Studies(tmp_path).environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        end = time.monotonic() + choices.uniform(3, 12)
        while process.poll() is None and len(find_processes(marker)) < count and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(delay)
        is_alive = process.poll() is None
        process.kill()
        left = wait_for_end(marker, DEADLINE_S)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        errors = process.communicate()[1]
    assert is_alive, errors.decode()  # else there was nothing to kill
    assert left == {}
