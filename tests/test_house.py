"""The house's own rules, by the tools that know them."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lightexp

ROOT = Path(__file__).parents[1]
PACKAGE = Path(lightexp.__file__).parent
ROOMS = sorted(PACKAGE.rglob("*.py"))


def tool(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs a tool that stands beside this Python, in the repository."""
    command = [str(Path(sys.executable).parent / words[0]), *words[1:]]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ("lint-imports", "--no-cache"),
        ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--no-cache", "--check", "."),
        # Public modules, classes, methods and functions have docstrings; private ones and tests need none.
        ("ruff", "check", "--no-cache", "--isolated", "--select", "D100,D101,D102,D103", "lightexp"),
        ("mypy",),
    ],
    ids=["imports", "lint", "format", "docstrings", "types"],
)
def test_a_tool_finds_nothing(words: tuple[str, ...]) -> None:
    done = tool(*words)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_floor_is_under_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = {f"lightexp.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    assert floors == set(contracts[0]["layers"])
    assert floors == {*contracts[1]["source_modules"], "lightexp.backend"}


def test_rooms_are_small() -> None:
    sizes = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in ROOMS}
    assert {name: lines for name, lines in sizes.items() if lines > 350} == {}
    assert statistics.median(sizes.values()) <= 120


def test_importing_it_loads_nothing_heavy() -> None:
    words = (
        "import os, sys\n"
        "before = dict(os.environ)\n"
        "import lightexp\n"
        "assert dict(os.environ) == before\n"
        "heavy = ['tensorflow', 'tf_keras', 'tensorflow_model_optimization', 'ai_edge_litert', 'mlflow', 'numpy']\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_module_outside_the_backend_loads_tensorflow() -> None:
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in ROOMS
        if path.parent.name != "backend" and path.name != "__main__.py"
    ]
    words = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    words += "print([m for m in ('tensorflow', 'tf_keras', 'tensorflow_model_optimization') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", words, *modules], capture_output=True, text=True, check=True)
    assert len(modules) > 40
    assert done.stdout == "[]\n"
