"""Run every command of README and guides; long ones with one epoch, three trials, or on digits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.documents import (
    BENCHMARKS,
    BLOCKS,
    COMMANDS,
    LIGHTEXP_COMMANDS,
    ROOT,
    TRAINING,
    Block,
    need_fashion_mnist,
    run,
)

OUTPUT = {  # of the commands other than `run`
    "search": "3 trials done",
    "doctor": "This machine can run it",
    "store": "entries",
    "track": "there already",
    "guide": "lightexp",
    "ablate": "--plan",
    "register": "keywords version 1 (champion, smallest)",
}
PYTHON = [block for block in BLOCKS if block.language == "python" and block.is_run]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one folder for all commands, with the reader's own files and those that the documents let them write."""
    path = tmp_path_factory.mktemp("tour")
    (path / "make.py").write_text((ROOT / "tests" / "make_user_files.py").read_text())
    done = run("python make.py", path)
    assert done.returncode == 0, done.stderr
    for block in BLOCKS:
        if block.file:
            (path / block.file).parent.mkdir(parents=True, exist_ok=True)
            (path / block.file).write_text(block.text)
    return path


def test_documents_have_only_tested_commands() -> None:
    setup = [line for line in COMMANDS if line.startswith("python3 -m venv .venv && ")]
    assert len(setup) == 2
    assert set(setup + LIGHTEXP_COMMANDS + BENCHMARKS) == set(COMMANDS)
    for line in setup:  # `.ci/run` runs these
        assert "-c requirements.lock" in line
        assert line.endswith(("&& .venv/bin/lightexp run", "&& .venv/bin/python -m pytest"))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.document)
def test_block_without_test_says_why(block: Block) -> None:
    if block.note.startswith("not run: "):
        assert len(block.note.split()) > 4
    elif not block.is_run and not block.file:
        assert not block.holds_commands


def test_translation_has_the_code_and_links_of_readme() -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")]
    code, links = (
        [re.findall(pattern, text, re.MULTILINE | re.DOTALL) for text in texts]
        for pattern in (r"^(?:<!-- \w+ -->\n)?```.*?^```", r"\]\(([^)]+)\)")
    )
    assert code[0] == code[1]
    assert links[0] == [{"README.md": "README.zh-CN.md"}.get(link, link) for link in links[1]]


@pytest.mark.parametrize("command", LIGHTEXP_COMMANDS)
def test_command_works(command: str, folder: Path) -> None:
    command = re.sub(r"trials=\d+", "trials=3", command.replace("dataset=fashion_mnist", "dataset=digits"))
    if command.startswith("lightexp search ") and "trials=" not in command and "--plan" not in command:
        command += " search.trials=3"
    if "experiment=" in command or "experiments/0" in command:
        need_fashion_mnist()
        command = command.replace("experiments/0", f"{ROOT}/experiments/0")
    if "experiment=" in command:
        stages = [name for name in TRAINING if name in command or name == "train"]
        command += "".join(f" pipeline.stages.{name}.epochs=1" for name in stages)
    if " RUN" in command:
        command = command.replace(" RUN", f" {max((folder / 'outputs' / 'runs').iterdir())}")
    done = run(command, folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    name = command.split()[1]
    if "--plan" in command:
        assert "Nothing was run" in done.stdout
    elif "--pick" in command:
        assert done.stdout.startswith("lightexp run ")
    elif "hydra/sweeper=lightexp" in command or "halving" in command:
        assert OUTPUT["search"].partition(" ")[2] in done.stdout
    elif name != "run":
        assert OUTPUT.get(name, "") in done.stdout + done.stderr
    elif " -m " in command:
        assert "Job" in done.stdout
    elif "--json" in command:
        assert json.loads(done.stdout)["status"] == "done"
    else:
        assert "(control)" in done.stdout
        assert "MLflow  run " in done.stdout


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.document)
def test_python_code_works(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    exec(compile(block.text, block.document, "exec"), {})
