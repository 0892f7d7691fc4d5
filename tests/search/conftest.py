from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from lightexp.search.study_spec import StudySpec


@pytest.fixture(autouse=True)
def no_hydra_left() -> Iterator[None]:
    """A spec makes its process a Hydra application; the next test is none."""
    yield
    GlobalHydra.instance().clear()


@pytest.fixture
def make_spec(tmp_path: Path) -> Callable[..., StudySpec]:
    """Makes jobs that write nowhere but here."""
    return lambda *words: StudySpec([f"paths.outputs={tmp_path}", "tracking=none", *words], [])
