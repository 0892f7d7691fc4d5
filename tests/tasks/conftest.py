"""Fixtures of the tests of tasks."""

from __future__ import annotations

import pytest

from tests.tasks.runs import TaskRuns


@pytest.fixture(scope="session")
def task_runs(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> TaskRuns:
    """Return runs that share a store."""
    return TaskRuns(tmp_path_factory.mktemp("tasks"))
