"""ARCHITECTURE.md agrees with the code: its layers, invariants and modules."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from lightexp.core.invariants import Invariant, InvariantKind
from lightexp.core.protocols import Stage
from lightexp.runner.compose import compose_settings

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
KINDS = {
    kind: (family, preserved_by)
    for kind, family, preserved_by in re.findall(r"^\| `(\w+)` \| ([\w ]+) \| .*? \| (.*?) ?\|$", TEXT, re.MULTILINE)
    if kind in list(InvariantKind)
}
NAMES = ["prune", "cluster", "qat", "quantize", "encode", "sensitivity"]


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    """Return each stage with its default settings."""
    added = [f"+stage@pipeline.stages.{name}={name}" for name in NAMES]
    return dict(compose_settings(["pipeline=control", *added, f"pipeline.order=[train,{','.join(NAMES)}]"]).stages)


def test_layers_are_those_of_the_import_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    table = TEXT.partition("| Package |")[2].partition("\n\n")[0]
    packages = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert [f"lightexp.{name}" for name in packages] == contract["layers"]


def test_every_kind_of_invariant_is_listed() -> None:
    families = {kind: Invariant(kind).family.name.lower().replace("_", " ") for kind in InvariantKind}
    assert {kind: family for kind, (family, _) in KINDS.items()} == families


@pytest.mark.parametrize("name", ["cluster", "prune", "qat", "quantize"])
def test_stages_preserve_what_the_table_says(name: str, stages: dict[str, Stage]) -> None:
    for kind, (_, preserved_by) in KINDS.items():
        preserving = re.findall(r"(?:^|, )`(\w+)`", preserved_by)
        # A sparsity below every stage's, and a codebook of more values, are the weakest invariants.
        invariant = Invariant(kind, 256 if kind == "codebook" else 0.1)
        assert stages[name].preserves(invariant) == (name in preserving), kind


@pytest.mark.parametrize("name", ["encode", "sensitivity"])
def test_other_stages_preserve_everything(name: str, stages: dict[str, Stage]) -> None:
    assert all(stages[name].preserves(Invariant(kind)) for kind in InvariantKind)


def test_named_modules_exist() -> None:
    for package, module in re.findall(r"`(\w+)\.(\w+)`", TEXT):
        folder = ROOT / "lightexp" / package
        assert not folder.is_dir() or (folder / f"{module}.py").is_file(), f"{package}.{module}"
    for path in re.findall(r"`(execution/\w+\.py)`", TEXT):
        assert (ROOT / "lightexp" / path).is_file()
