"""The README's commands, and functions that run them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lightexp.core.errors import BadInput
from lightexp.datasets.fashion_mnist import FashionMnist
from tests.command_server import run_command, run_script

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines() if line.strip()]
LIGHTEXP_COMMANDS = [line for line in COMMANDS if line.startswith("lightexp ")]
BENCHMARKS = [line for line in COMMANDS if "experiments/benchmarks/" in line]
TRAINING = ("train", "distill", "prune")
TIMEOUT_S = 300  # a busy machine is no failure
BIN = Path(sys.executable).parent


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of a `bash` block in a folder."""
    program, *arguments = shlex.split(command, comments=True)
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
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
