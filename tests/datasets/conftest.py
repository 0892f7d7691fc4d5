"""Fixtures for the tests of data sets."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the data sets folder of an empty Keras cache, on a machine without system data sets."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr("lightexp.datasets.downloadable.SYSTEM_FOLDERS", (tmp_path / "system",))
    return tmp_path / "keras" / "datasets"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of the user's `.npz` file."""
    return tmp_path / "mine.npz"
