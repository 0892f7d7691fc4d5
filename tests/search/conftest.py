from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from lightexp.search.study_spec import StudySpec
from tests.tracking.fixtures import copy_database
from tests.tracking.fixtures import server as mlflow_server

__all__ = ["copy_database", "mlflow_server"]


@pytest.fixture(autouse=True)
def clear_hydra() -> Iterator[None]:
    """Clear Hydra's global state, which a study's specification initialises, after each test."""
    yield
    GlobalHydra.instance().clear()


@pytest.fixture
def make_spec(tmp_path: Path) -> Callable[..., StudySpec]:
    """Make specifications of studies whose files are in the test's folder."""
    return lambda *overrides: StudySpec([f"paths.outputs={tmp_path}", "tracking=none", *overrides], [])
