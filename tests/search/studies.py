"""Studies as a user starts them: real processes on a padding of a tiny .tflite, which no trial takes seconds for."""

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

from tests.command_server import run_command

COMMAND = Path(sys.executable).parent / "lightexp"
PLUGIN = Path(__file__).parent / "plugin"
LEVEL, MODE, SECONDS = (f"pipeline.stages.faulty.{name}" for name in ("level", "mode", "seconds"))
PATIENCE = 600  # seconds; a busy machine is no failure


def arrays(folder: Path) -> Path:
    """A data set that the tiny model fits: 100 images of 8x8 pixels in 4 classes."""
    path = folder / "tiny.npz"
    if not path.exists():
        np.savez(path, x=np.random.default_rng(0).integers(0, 255, (100, 8, 8), np.uint8), y=np.arange(100) % 4)
    return path


class Studies:
    """Starts `lightexp search` in a folder."""

    def __init__(self, folder: Path, tracking: str = "none") -> None:
        """Writes the data set."""
        self.folder = folder
        self.outputs = folder / "outputs"
        place = [f"dataset.path={arrays(folder)}", f"model.path={PLUGIN / 'tiny.tflite'}", "runtime.threads=1"]
        self.flags = [f"--config-dir={PLUGIN / 'conf'}"]
        self.words = ["search=faulty", "pipeline=faulty", "measure=padding", "dataset=arrays", "model=from_file"]
        self.words += ["plugins=[faulty]", f"tracking={tracking}", "search.study=tried", *place]

    def command(self, *words: str) -> list[str]:
        """The whole command."""
        return [str(COMMAND), "search", *self.flags, *self.words, *words]

    def environment(self) -> dict[str, str]:
        """The test's own, with the plugin."""
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(PLUGIN)]))
        return {**{k: v for k, v in os.environ.items() if not k.startswith("TF_")}, "PYTHONPATH": path}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a study to its end."""
        return run_command(self.command(*words)[1:], self.folder, self.environment(), PATIENCE)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Starts a study in a process group of its own, as in a terminal."""
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def trials(self, name: str = "tried") -> list[FrozenTrial]:
        """The trials, by number, read by Optuna's own storage; none where there is no study yet."""
        journal = self.outputs / "searches" / name / "journal.log"
        if not journal.exists():
            return []
        kept = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
        try:
            return optuna.load_study(study_name=name, storage=kept).trials
        except KeyError:
            return []

    def mlflow(self) -> list[Any]:
        """The runs in MLflow, the study's first and then its trials by number."""
        from lightexp.tracking import stores

        mlflow = stores.import_mlflow()
        if not (self.outputs / "mlflow.db").exists():
            return []
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{self.outputs / 'mlflow.db'}")
        found = client.get_experiment_by_name("lightexp")
        runs = list(client.search_runs([found.experiment_id])) if found else []
        return sorted(runs, key=lambda run: int(run.data.tags.get("lightexp.trial", -1)))

    def front(self, name: str = "tried") -> dict[str, Any]:
        """What was written of the front."""
        return dict(json.loads((self.outputs / "searches" / name / "front.json").read_text()))


def until(there: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Waits until something is there, and returns it."""
    end = time.monotonic() + PATIENCE
    while not (found := there()):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"it ended too early ({process.returncode}): {process.communicate()}")
        time.sleep(0.2)
    return found


def children(pid: int) -> list[int]:
    """The workers that a process has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"lightexp.search.worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return found


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
