"""The wheel holds the package and its configs only, and works in any folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from lightexp.core.version import __version__

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel built from the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    return next(folder.glob("*.whl"))


def test_wheel_holds_configs_guides_and_no_other_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {f"lightexp/_conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    shipped |= {f"lightexp/guides/{path.name}" for path in (ROOT / "lightexp" / "guides").glob("*.md")}
    assert shipped <= names
    assert {name.split("/")[0] for name in names} == {"hydra_plugins", "lightexp", f"lightexp-{__version__}.dist-info"}
    assert [name for name in names if "hydra_plugins" in name] == ["hydra_plugins/lightexp_sweeper.py"]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_version_is_the_same_everywhere() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    released = re.findall(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == __version__


def test_command_works_from_the_wheel_in_any_folder(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "site with space"
    zipfile.ZipFile(wheel).extractall(home)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        "import sys, lightexp; from lightexp.cli.main import main; "
        f"assert lightexp.__file__.startswith({str(home)!r}); "
        "sys.exit(main(['run', '--cfg', 'all', 'hydra/sweeper=lightexp', 'pipeline=distill_prune', 'model=lenet5']))"
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
    assert "hydra_plugins.lightexp_sweeper.LightexpSweeper" in done.stdout
    assert list(elsewhere.iterdir()) == []


def test_hydra_finds_the_sweeper_when_installed(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "wheel")
    code = "from hatchling.build import build_editable; import sys; build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True, capture_output=True, timeout=60)
    editable = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    assert not [name for name in editable.namelist() if "hydra_plugins" in name]  # a copy would win over the source
    roots = editable.read("_lightexp.pth").decode().split()
    script = "from hydra.core.plugins import Plugins; import hydra_plugins.lightexp_sweeper as s; print(s.__file__); "
    script += "Plugins.instance().class_name_to_class['hydra_plugins.lightexp_sweeper.LightexpSweeper']"
    for path, folder in [
        (str(tmp_path / "wheel"), tmp_path / "wheel" / "hydra_plugins"),
        (os.pathsep.join(roots), ROOT / "lightexp" / "_hydra" / "hydra_plugins"),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.strip() == str(folder / "lightexp_sweeper.py"), done.stderr
