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
