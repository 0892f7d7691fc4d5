"""The settings of a study, read from its storage."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest

from lightexp.core.errors import BadInput
from lightexp.search.storage import open_storage
from lightexp.search.stored_spec import ARGUMENTS, restore_spec
from lightexp.search.study import SearchStudy
from lightexp.search.study_spec import StudySpec

SPARSITY = "pipeline.stages.prune.sparsity"


def test_settings_of_a_study_are_restored(make_spec: Callable[..., StudySpec]) -> None:
    made = make_spec(f"{SPARSITY}=interval(0.5,0.9)", "search.constraints=['size/file_bytes <= 9 KiB']")
    space = made.make_space({})
    SearchStudy(made, space, made.folder, print, made.compute_identity(space, {}))
    place = make_spec()
    restored = restore_spec(place, print)
    assert restored.ranges == made.ranges != place.ranges
    assert restored.constraints == made.constraints != place.constraints
    changed = restore_spec(make_spec(f"{SPARSITY}=choice(0.5,0.6)"), print)
    assert changed.ranges[SPARSITY] == "choice(0.5,0.6)"
    assert changed.constraints == made.constraints
    storage, _ = open_storage(None, made.folder, made.name, print)
    study = optuna.load_study(study_name=made.name, storage=storage)
    study.set_user_attr(ARGUMENTS, {**made.arguments, "overrides": ["model=lenet5"]})
    with pytest.raises(BadInput, match="was made with settings of another place"):
        restore_spec(place, print)
    study.set_user_attr(ARGUMENTS, {"overrides": "rm"})
    with pytest.raises(BadInput, match=r"holds what lightexp did not write: arguments\.overrides: Input should be a"):
        restore_spec(place, print)
