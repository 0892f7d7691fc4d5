"""Start the worker processes of the Python API as forks, so that TensorFlow is not imported for each of them."""

from __future__ import annotations

import sys

import pytest

from tests.command_server import start_warm_python


@pytest.fixture
def warm_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start this process's workers, and those that they start, as forks."""
    python, variables = start_warm_python()
    monkeypatch.setattr(sys, "executable", python)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
