"""Start `lightexp` as a user does, in real processes on tiny settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lightexp.core.record import Record, read_record
from lightexp.runner.compose import compose_settings
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from tests.command_server import run_command, start_command

COMMAND = Path(sys.executable).parent / "lightexp"
TINY = ["model.width=0.25", "pipeline.stages.train.epochs=1", "pipeline.stages.prune.epochs=1"]
TINY += ["runtime.threads=1", "measure=quick"]
PATIENCE = 600  # seconds; a busy machine is no failure


def environment() -> dict[str, str]:
    """Return this process' environment, without what an earlier test's TensorFlow has set in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TF_")}


def lightexp(*words: str, cwd: Path, program: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in `cwd` to its end; or another program, in a process that has imported nothing."""
    if program is None:
        return run_command(words, cwd, environment(), PATIENCE)
    command = [*program, *words]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=PATIENCE)


class Running:
    """A command that is running, in its own process group as in a terminal."""

    def __init__(
        self, *words: str, cwd: Path, on_interrupt: signal.Handlers = signal.SIG_DFL, is_fork: bool = False
    ) -> None:
        self.process = start_command(
            words,
            cwd,
            environment(),
            is_fork,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, on_interrupt),  # whatever the tests inherit
        )

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise AssertionError(f"it ended too early ({self.process.returncode}): {self.process.communicate()}")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the process alone, as `kill -9` does, not its children."""
        self.process.kill()

    def interrupt(self) -> None:
        """Send SIGINT to the process group, as Ctrl-C does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        """Wait for the end, and return exit code, output and errors."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


def read_records(outputs: Path) -> list[Record]:
    """Return the records in an outputs folder, oldest first."""
    return sorted(
        (read_record(path.parent) for path in outputs.glob("runs/*/record.json")), key=lambda record: record.started
    )


def keys(*words: str) -> dict[str, str]:
    """Return the store key of each stage of a run."""
    plan, _ = Runner(SilentReporter()).plan(compose_settings(list(words)))
    return {node.name: node.key for node in plan.nodes}


def mlflow_status(outputs: Path) -> dict[str, str]:
    """Return each MLflow run's status by its id, read from the database itself."""
    import sqlite3

    with sqlite3.connect(outputs / "mlflow.db") as database:
        statuses = dict(database.execute("select run_uuid, status from runs").fetchall())
    database.close()
    return statuses
