"""Studies as a user starts them: real processes that vary a padding of a tiny .tflite, so that no trial takes long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from tests.command_server import run_command, start_command

COMMAND = Path(sys.executable).parent / "lightexp"
PLUGIN = Path(__file__).parent / "plugin"
LEVEL, MODE, SECONDS = (f"pipeline.stages.faulty.{name}" for name in ("level", "mode", "seconds"))
PATIENCE_S = 600  # a busy machine is no failure


def write_arrays(folder: Path) -> Path:
    """Write a data set that suits the tiny model: 100 images of 8x8 pixels in 4 classes."""
    path = folder / "tiny.npz"
    if not path.exists():
        np.savez(path, x=np.random.default_rng(0).integers(0, 255, (100, 8, 8), np.uint8), y=np.arange(100) % 4)
    return path


class Studies:
    """Starts `lightexp search` in a folder and reads its studies."""

    def __init__(self, folder: Path, tracking: str = "none") -> None:
        """Write the data set."""
        self.folder = folder
        self.outputs = folder / "outputs"
        paths = [f"dataset.path={write_arrays(folder)}", f"model.path={PLUGIN / 'tiny.tflite'}", "runtime.threads=1"]
        self.flags = [f"--config-dir={PLUGIN / 'conf'}"]
        self.overrides = ["search=faulty", "pipeline=faulty", "measure=padding", "dataset=arrays", "model=from_file"]
        self.overrides += ["plugins=[faulty]", f"tracking={tracking}", "search.study=tried", *paths]

    def command(self, *overrides: str) -> list[str]:
        """Return the complete command."""
        return [str(COMMAND), "search", *self.flags, *self.overrides, *overrides]

    def environment(self) -> dict[str, str]:
        """Return the test's environment, with the plugin."""
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(PLUGIN)]))
        return {**{k: v for k, v in os.environ.items() if not k.startswith("TF_")}, "PYTHONPATH": path}

    def run(self, *overrides: str) -> subprocess.CompletedProcess[str]:
        """Run a study to its end."""
        return run_command(self.command(*overrides)[1:], self.folder, self.environment(), PATIENCE_S)

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        """Start a study in a process group of its own, as a terminal does."""
        return start_command(
            self.command(*overrides)[1:],
            self.folder,
            self.environment(),
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def list_trials(self, name: str = "tried") -> list[FrozenTrial]:
        """Return the trials by number, read by Optuna's own storage; none if the study does not exist yet."""
        journal = self.outputs / "searches" / name / "journal.log"
        if not journal.exists():
            return []
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
        try:
            return optuna.load_study(study_name=name, storage=storage).trials
        except KeyError:
            return []

    def list_mlflow_runs(self) -> list[Any]:
        """Return the runs in MLflow, the study's first and then its trials by number."""
        from lightexp.tracking import stores

        mlflow = stores.import_mlflow()
        if not (self.outputs / "mlflow.db").exists():
            return []
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{self.outputs / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("lightexp")
        runs = list(client.search_runs([experiment.experiment_id])) if experiment else []
        return sorted(runs, key=lambda run: int(run.data.tags.get("lightexp.trial", -1)))

    def read_front(self, name: str = "tried") -> dict[str, Any]:
        """Return the content of `front.json`."""
        return dict(json.loads((self.outputs / "searches" / name / "front.json").read_text()))


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Wait until a condition holds and return its value; fail if the process ends before."""
    end = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"it ended too early ({process.returncode}): {process.communicate()}")
        time.sleep(0.2)
    return value


def find_workers(pid: int) -> list[int]:
    """Return the workers that a process has started."""
    workers = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"lightexp.search.worker" in (entry / "cmdline").read_bytes():
                workers.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return workers


def is_alive(pid: int) -> bool:
    """Return whether a process runs and is no zombie."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
