"""From a wheel, in any folder, lightexp finds its configs and holds nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    return next(folder.glob("*.whl"))


def test_every_config_is_in_the_wheel_and_nothing_strange(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {f"lightexp/_conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert shipped <= names
    assert {name.split("/")[0] for name in names} == {"lightexp", "lightexp-0.1.0.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_works_from_the_wheel_in_another_folder(wheel, tmp_path):
    home = tmp_path / "site with space"
    zipfile.ZipFile(wheel).extractall(home)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        "import sys, lightexp; from lightexp.cli.main import main; "
        f"assert lightexp.__file__.startswith({str(home)!r}); "
        "sys.exit(main(['run', '--cfg', 'job', 'pipeline=distill_prune', 'model=lenet5']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "lightexp.stages.distill.Distill" in done.stdout
    assert list(elsewhere.iterdir()) == []
