"""Secrets that a user gives in a URI or in the environment are in no file, database or output."""

from __future__ import annotations

import os
import subprocess
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
    fails: bool = False

    def apply(self, parent, context):
        if self.fails:
            raise ValueError(f"cannot reach {self.url}")
        (context.out / TFLITE).write_bytes(parent.tflite.read_bytes() + bytes(round(self.level * 1_000)))
        return {}
"""
FILES = {
    "leaky.py": STAGE,
    "conf/stage/leaky.yaml": "_target_: leaky.Leaky\nurl: ''\nlevel: 0.5\nfails: false\n",
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
        done = run_command([command, *words], self.folder, {**os.environ, "PYTHONPATH": path, "LEAK": MARK}, 300)
        self.printed += done.stdout + done.stderr
        return done


def test_environment_stands_in_nothing_that_is_written(tmp_path: Path) -> None:
    commands = LeakyCommands(tmp_path)
    flags = [f"--config-dir={commands.plugin / 'conf'}", *commands.overrides]
    level = "pipeline.stages.leaky.level"
    done = commands.run("run", *flags)
    assert done.returncode == 0, done.stderr
    failed = commands.run("run", *flags, "tracking=none", "pipeline.stages.leaky.fails=true")
    assert failed.returncode == 1 and "cannot reach postgresql://me:" in failed.stderr
    wrong = commands.run("run", *flags, "tracking=none", f"{level}='${{oc.env:LEAK}}'")
    assert wrong.returncode == 2 and "Received: '${oc.env:LEAK}'" in wrong.stderr
    study = [*flags, "search=leaky", "search.trials=2", "search.study=s", f"{level}=interval(0.1,1)"]
    for tracking in ("mlflow", "none"):  # the second finds that the study is complete
        searched = commands.run("search", *study, f"tracking={tracking}")
        assert searched.returncode == 0, searched.stderr
    assert commands.run("report", "outputs").returncode == 0
    front = commands.folder / "outputs" / "searches" / "s" / "front"
    config = sorted(front.glob("*.yaml"))[0]
    repeated = commands.run("run", f"--config-dir={front}", f"--config-name={config.stem}")
    assert repeated.returncode == 0, repeated.stderr
    assert "${oc.env:LEAK}" in config.read_text()
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
