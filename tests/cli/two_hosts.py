"""Two users' folders that share a remote store alone, and what is done with that."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lightexp.cli.main import main
from tests.tiny_runs import TinyRuns

PIPELINE = ("pipeline=quantize", "pipeline.stages.quantize.scheme=int8")
DAY_S = 86_400.0


class Hosts:
    """Two users' folders that share a remote store alone, and the record of a run in the first."""

    def __init__(self, folder: Path) -> None:
        self.url = f"file://{folder / 'remote'}"
        self.remote = folder / "remote"
        self.first, self.second = (TinyRuns(self._make(folder / name)) for name in ("a", "b"))
        self.record = self.first.run(*PIPELINE, f"store.remote={self.url}")

    def _make(self, folder: Path) -> Path:
        folder.mkdir()
        return folder


def run_store(capfd: pytest.CaptureFixture[str], outputs: Path, url: str, *argv: str) -> tuple[int, str, str]:
    """Run `lightexp store`, and return exit code, output and errors."""
    code = main(["store", *argv, f"paths.outputs={outputs}", f"store.remote={url}"])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def list_objects(remote: Path) -> list[Path]:
    return sorted(path for path in remote.rglob("*") if path.is_file())


def age(remote: Path, days: float) -> None:
    for path in list_objects(remote):
        time = path.stat().st_mtime - days * DAY_S
        os.utime(path, (time, time))


@pytest.fixture(scope="session")
def hosts(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    return Hosts(tmp_path_factory.mktemp("hosts"))


@pytest.fixture
def copy(hosts: Hosts, tmp_path: Path) -> tuple[Path, str]:
    """A copy of the remote store, and its address."""
    shutil.copytree(hosts.remote, tmp_path / "remote")
    return tmp_path / "remote", f"file://{tmp_path / 'remote'}"
