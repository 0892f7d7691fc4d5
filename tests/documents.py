"""The commands and code of README, guides and experiments, and functions that run them.

In a block of `bash` every line is run, in one of `python` all of it. A block of `yaml` or `python` whose first line is
a comment with a path is a file that the reader writes. A comment before a block changes what the tests do:

- `<!-- plan -->`: only what the commands would do is asked, by `--plan`, since the commands take minutes.
- `<!-- not run: REASON -->`: nothing is run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightexp.core.errors import BadInput
from lightexp.datasets.fashion_mnist import FashionMnist
from tests.command_server import run_command, run_script

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "lightexp" / "guides").glob("*.md")),
    *sorted((ROOT / "experiments").glob("**/README.md")),
]
TRAINING = ("train", "distill", "prune")
TIMEOUT_S = 300  # a busy machine is no failure
BIN = Path(sys.executable).parent
_BLOCK = re.compile(r"(?:^<!-- (.+?) -->\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w/]+\.(?:yaml|py))\n")
_COMMAND = re.compile(r"^(lightexp|python3?|pip|docker|curl) ", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code of a document.

    Attributes:
        document: Name of the document.
        note: The comment before it; empty without one.
        language: What it is written in.
        text: Its lines.
    """

    document: str
    note: str
    language: str
    text: str

    @property
    def file(self) -> str:
        """The path of the file that the reader writes; empty where the block is none."""
        match = _FILE.match(self.text) if self.language in ("yaml", "python") else None
        return match[1] if match else ""

    @property
    def is_run(self) -> bool:
        """Whether the tests run the block."""
        return self.language in ("bash", "python") and not self.file and not self.note.startswith("not run: ")

    @property
    def holds_commands(self) -> bool:
        """Whether a line looks like a command."""
        return _COMMAND.search(self.text) is not None

    @property
    def commands(self) -> list[str]:
        """The commands of a block of `bash`; one that only plans has `--plan`."""
        lines = [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]
        return [f"{line} --plan" for line in lines] if self.note == "plan" else lines


def list_blocks() -> Iterator[Block]:
    """Yield the blocks of all documents."""
    for path in DOCUMENTS:
        for note, language, text in _BLOCK.findall(path.read_text(encoding="utf-8")):
            yield Block(str(path.relative_to(ROOT)), note, language, text)


BLOCKS = list(list_blocks())
COMMANDS = [line for block in BLOCKS if block.language == "bash" and block.is_run for line in block.commands]
LIGHTEXP_COMMANDS = list(dict.fromkeys(line for line in COMMANDS if line.startswith("lightexp ")))
BENCHMARKS = [line for line in COMMANDS if "experiments/benchmarks/" in line]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of a `bash` block in a folder."""
    program, *arguments = shlex.split(command, comments=True)
    modules = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))  # the reader's own first
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": modules}
    if program == "lightexp":
        return run_command(arguments, folder, environment, TIMEOUT_S)
    assert program == "python"
    return run_script(folder / arguments[0], arguments[1:], folder, environment, TIMEOUT_S)


def need_fashion_mnist() -> None:
    """Skip the test if Fashion-MNIST is missing."""
    try:
        FashionMnist().check()
    except BadInput:
        pytest.skip("Fashion-MNIST is missing: apt-get install dataset-fashion-mnist")
