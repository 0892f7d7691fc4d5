"""The command as a user starts it: real processes on tiny settings."""

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
from tests.command_server import run_command

COMMAND = Path(sys.executable).parent / "lightexp"
TINY = ["model.width=0.25", "pipeline.stages.train.epochs=1", "pipeline.stages.prune.epochs=1"]
TINY += ["runtime.threads=1", "measure=quick"]
PATIENCE = 120  # seconds; a busy machine is no failure


def environment() -> dict[str, str]:
    """The test's own, without what an earlier test's TensorFlow has set in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TF_")}


def lightexp(*words: str, cwd: Path, program: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command in `cwd` to its end; another program in a process that has imported nothing."""
    if program is None:
        return run_command(words, cwd, environment(), PATIENCE)
    command = [*program, *words]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=PATIENCE)


class Running:
    """A command that goes on, in a process group of its own as in a terminal."""

    def __init__(self, *words: str, cwd: Path, on_interrupt: signal.Handlers = signal.SIG_DFL) -> None:
        self.process = subprocess.Popen(
            [str(COMMAND), *words],
            cwd=cwd,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, on_interrupt),  # not as whoever started the tests has it
        )

    def until(self, there: Callable[[], bool]) -> None:
        """Waits until something is there."""
        end = time.monotonic() + PATIENCE
        while not there():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise AssertionError(f"it ended too early ({self.process.returncode}): {self.process.communicate()}")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kills it as `kill -9` does: it alone, not its children."""
        self.process.kill()

    def interrupt(self) -> None:
        """Does what Ctrl-C does: the whole group gets the signal."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        """Waits for its end; returns its exit code and what it wrote to both streams."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


def records(outputs: Path) -> list[Record]:
    """The records below an outputs folder, oldest first."""
    return sorted(
        (read_record(path.parent) for path in outputs.glob("runs/*/record.json")), key=lambda record: record.started
    )


def keys(*words: str) -> dict[str, str]:
    """The keys that a run's stages have."""
    plan, _ = Runner(SilentReporter()).plan(compose_settings(list(words)))
    return {node.name: node.key for node in plan.nodes}


def mlflow_status(outputs: Path) -> dict[str, str]:
    """Each MLflow run's status by its id, read from the database itself."""
    import sqlite3

    with sqlite3.connect(outputs / "mlflow.db") as database:
        found = dict(database.execute("select run_uuid, status from runs").fetchall())
    database.close()
    return found
