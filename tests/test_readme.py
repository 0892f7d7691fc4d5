"""Run every command of the README; long ones with one epoch, three trials, or on digits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.readme import BENCHMARKS, BLOCKS, COMMANDS, LIGHTEXP_COMMANDS, ROOT, TRAINING, need_fashion_mnist, run

OUTPUT = {  # of the commands other than `run`
    "search": "3 trials done",
    "doctor": "This machine can run it",
    "store": "entries",
    "track": "there already",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one folder for all commands, as a reader of the README has."""
    return tmp_path_factory.mktemp("tour")


def test_readme_has_only_tested_commands() -> None:
    setup = [line for line in COMMANDS if line.startswith("python3 -m venv .venv && ")]
    assert len(setup) == 2
    assert sorted(setup + LIGHTEXP_COMMANDS + BENCHMARKS) == sorted(COMMANDS)
    for line in setup:  # `.ci/run` runs these
        assert "-c requirements.lock" in line
        assert line.endswith(("&& .venv/bin/lightexp run", "&& .venv/bin/python -m pytest"))


@pytest.mark.parametrize("command", LIGHTEXP_COMMANDS)
def test_readme_command_works(command: str, folder: Path) -> None:
    command = re.sub(r"trials=\d", "trials=3", command.replace("dataset=fashion_mnist", "dataset=digits"))
    if "experiment=" in command or "experiments/" in command:
        need_fashion_mnist()
        command = command.replace("experiments/", f"{ROOT}/experiments/")
    if "experiment=" in command:
        stages = [name for name in TRAINING if name in command or name == "train"]
        command += "".join(f" pipeline.stages.{name}.epochs=1" for name in stages)
    done = run(command, folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if "--plan" in command:
        assert "Nothing was run" in done.stdout
    elif "hydra/sweeper=lightexp" in command or "halving" in command:
        assert OUTPUT["search"].partition(" ")[2] in done.stdout
    elif not command.startswith("lightexp run"):
        assert OUTPUT[command.split()[1]] in done.stdout
    elif " -m " in command:
        assert "Job" in done.stdout
    else:
        assert "train (control)" in done.stdout
        assert "MLflow  run " in done.stdout


@pytest.mark.usefixtures("warm_workers")
def test_readme_python_code_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [text for language, text in BLOCKS if language == "python"]
    assert blocks
    monkeypatch.chdir(folder)
    for text in blocks:
        exec(compile(text, "README.md", "exec"), {})
