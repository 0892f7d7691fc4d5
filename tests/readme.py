"""The README's commands, and what runs them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from lightexp.core.errors import BadInput
from lightexp.datasets.fashion_mnist import FashionMnist
from tests import warm
from tests.system_packages import skip_without

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line.strip()]
OURS = [line for line in COMMANDS if line.startswith("lightexp ")]
BENCHMARKS = [line for line in COMMANDS if "experiments/benchmarks/" in line]
TRAINING = ("train", "distill", "prune")
PATIENCE = 300  # seconds; a busy machine is no failure
BIN = Path(sys.executable).parent


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command, comments=True)
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    if words[0] == "lightexp":
        return warm.lightexp(words[1:], folder, environment, PATIENCE)
    assert words[0] == "python"
    return warm.script(folder / words[1], words[2:], folder, environment, PATIENCE)


def need_fashion_mnist() -> None:
    try:
        FashionMnist().check()
    except BadInput:
        skip_without("dataset-fashion-mnist")
