"""Changes in the source of imported plugins are noticed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lightexp.api.plugin_sources import PluginSources


def test_changes_of_imported_packages_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "api_test_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    sources = PluginSources()
    sources.add(["api_test_plugin"])  # is not imported yet
    (package / "helper.py").write_text("x = 1\n")
    assert not sources.have_changed()
    __import__("api_test_plugin")
    sources.add(["api_test_plugin"])
    (package / "notes.txt").write_text("no code")
    assert not sources.have_changed()
    (package / "helper.py").write_text("x = 2\n")
    sources.add(["api_test_plugin"])  # does not forget what was imported
    assert sources.have_changed()
    del sys.modules["api_test_plugin"]
