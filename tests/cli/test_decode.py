"""`lightexp decode`: what it writes, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from lightexp.core.tflite_graph import ConstantSpan
from lightexp.export.lxe import encode
from tests.cli.commands import lightexp

WEIGHTS = np.round(np.random.default_rng(0).normal(0, 20, 5000)).astype(np.int8)
CONTENT = b"TFL3" + WEIGHTS.tobytes()
CHECK = """
import sys
from lightexp.cli.main import main
code = main(sys.argv[1:])
assert not {"tensorflow", "ai_edge_litert", "hydra", "mlflow"} & set(sys.modules), sorted(sys.modules)
sys.exit(code)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a model.lxe"
    path.write_bytes(encode(CONTENT, [ConstantSpan(4, 5000, 8, False, (50, 100))]))
    return path


def test_decode_restores_the_file_without_heavy_imports(file: Path) -> None:
    result = lightexp("decode", file.name, cwd=file.parent, program=[sys.executable, "-c", CHECK])
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "a model.tflite (5,004 bytes)\n"
    assert file.with_suffix(".tflite").read_bytes() == CONTENT
    assert sorted(p.name for p in file.parent.iterdir()) == ["a model.lxe", "a model.tflite"]


def test_decode_replaces_files_only_by_force(file: Path) -> None:
    existing = file.with_name("there")
    existing.write_bytes(b"mine")
    result = lightexp("decode", file.name, "-o", "there", cwd=file.parent)
    assert result.returncode == 2 and "there exists. Give --force" in result.stderr
    assert existing.read_bytes() == b"mine"
    assert lightexp("decode", file.name, "-o", "there", "--force", cwd=file.parent).returncode == 0
    assert existing.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["cut.lxe"], "cut.lxe: The encoded model is cut off or altered"),
        (["other.lxe"], "other.lxe: This is no encoded model (4 bytes)"),
        (["absent.lxe"], "absent.lxe cannot be read: No such file or directory"),
        (["."], ". cannot be read: it is a folder"),
        (["a model.lxe", "-o", "no/where"], "no/where cannot be written: No such file or directory"),
        (["a model.lxe", "-o", ".", "--force"], ". exists"),
        ([], "the following arguments are required: file"),
        (["a model.lxe", "--forse"], "--forse is not a flag of lightexp decode: did you mean '--force'?"),
    ],
)
def test_decode_refuses_bad_input_in_one_line(argv: list[str], message: str, file: Path) -> None:
    file.with_name("cut.lxe").write_bytes(file.read_bytes()[:-9])
    file.with_name("other.lxe").write_bytes(b"TFL3")
    before = sorted(file.parent.rglob("*"))
    result = lightexp("decode", *argv, cwd=file.parent)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1 and result.stderr.startswith(("lightexp: ", "lightexp decode: "))
    assert message in result.stderr
    assert sorted(file.parent.rglob("*")) == before


def test_decode_shows_its_help(tmp_path: Path) -> None:
    result = lightexp("decode", "--help", cwd=tmp_path)
    assert result.returncode == 0 and "lightexp decode" in result.stdout
