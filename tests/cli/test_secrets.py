"""Secrets that a user gives in a URI or in the environment are in no file, database or output."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lightexp.cli.main import main
from tests.command_server import run_command
from tests.search.studies import PLUGIN, write_arrays
from tests.tiny_runs import find_text

MARK = "m4rked-s3cret"
SETTING = "pipeline.stages.leaky.url"
URL = f"{SETTING}='postgresql://me:${{oc.env:LEAK}}@h/db?password=${{oc.env:LEAK}}'"
STAGE = """
from dataclasses import dataclass

from lightexp.core.config import Fraction
from lightexp.core.protocols import TFLITE, Stage


@dataclass(frozen=True)
class Leaky(Stage):
    accepts = ("tflite",)
    produces = "tflite"
    needs_tensorflow = False
    url: str = ""
    level: Fraction = 0.5

    def apply(self, parent, context):
        if self.level == 1.0:
            raise ValueError(f"cannot reach {self.url}")
        (context.out / TFLITE).write_bytes(parent.tflite.read_bytes() + bytes(round(self.level * 1_000)))
        return {}
"""
FILES = {
    "leaky.py": STAGE,
    "conf/stage/leaky.yaml": "_target_: leaky.Leaky\nurl: ''\nlevel: 0.5\n",
    "conf/search/leaky.yaml": "defaults: [_settings, _self_]\nobjectives: [accuracy/val, size/file_bytes]\n",
    "conf/pipeline/leaky.yaml": "defaults: [/stage@stages.leaky: leaky, _self_]\norder: [leaky]\nwaive: []\n",
}


class LeakyCommands:
    """Runs commands with a secret in the environment, and keeps what they print."""

    def __init__(self, folder: Path) -> None:
        self.plugin, self.folder, self.printed = folder / "plugin", folder / "work", ""
        for name, content in FILES.items():
            (self.plugin / name).parent.mkdir(parents=True, exist_ok=True)
            (self.plugin / name).write_text(content)
        self.folder.mkdir()
        self.overrides = [
            "pipeline=leaky",
            "plugins=[leaky]",
            "model=from_file",
            f"model.path={PLUGIN / 'tiny.tflite'}",
        ]
        self.overrides += ["dataset=arrays", f"dataset.path={write_arrays(folder)}", "measure=quick", URL]

    def run(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(self.plugin)]))
        flags = [f"--config-dir={self.plugin / 'conf'}", *self.overrides] if command != "report" else []
        done = run_command(
            [command, *flags, *words], self.folder, {**os.environ, "PYTHONPATH": path, "LEAK": MARK}, 300
        )
        self.printed += done.stdout + done.stderr
        return done


def test_environment_stands_in_nothing_that_is_written(tmp_path: Path, copy_database: Callable[[Path], None]) -> None:
    commands = LeakyCommands(tmp_path)
    copy_database(commands.folder / "outputs")
    done = commands.run("run")
    assert done.returncode == 0, done.stderr
    study = ["search=leaky", "search.sampler=grid", "search.trials=4", "search.study=s", "tracking=none"]
    searched = commands.run("search", *study, "pipeline.stages.leaky.level=choice(0.2,0.4,1.0)")
    assert searched.returncode == 0, searched.stderr
    reported = commands.run("report", "outputs")
    assert reported.returncode == 0, reported.stderr
    interpolated = find_text(commands.folder, "${oc.env:LEAK}")
    assert {path.name for path in interpolated} >= {"record.json", "config.yaml", "mlflow.db"}
    assert [path for path in interpolated if path.parent.name == "front" and path.suffix == ".yaml"]
    assert find_text(commands.folder, "cannot reach")
    assert find_text(commands.folder, MARK) == []
    assert MARK not in commands.printed


@pytest.mark.parametrize(
    "uri", [f"postgresql://me:{MARK}@h/db", f"postgresql://h/db?password={MARK}", f"http://{MARK}@h"]
)
@pytest.mark.parametrize(
    "words",
    [
        "run tracking.uri=",
        "run -m seed=0,1 tracking.uri=",
        "run +model.url=",
        "search search.storage=",
        "ablate table.yaml tracking.uri=",
        "report tracking.uri=",
        "track sync tracking.uri=",
        "ui tracking.uri=",
        "ui --optuna search.storage=",
        "doctor tracking.uri=",
        "store ls paths.outputs=",
    ],
)
def test_plain_secret_is_refused_before_anything_is_written(
    words: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main((words + uri).split(" ")) == 2
    out, err = capfd.readouterr()
    assert MARK not in out + err
    assert len(err.splitlines()) == 1 and "which every record would show" in err
    assert list(tmp_path.rglob("*")) == []
