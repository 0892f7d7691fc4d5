"""Searches that train: successive halving by two workers, and a pruner of Optuna's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from optuna.trial import TrialState

from lightexp.core.record import read_record
from lightexp.runner.execute import STOPPED_FACT
from lightexp.search.outcome import PROMOTED_FROM, RUNG, read_stopped_epoch
from lightexp.search.study import SearchStudy
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import compute_status
from lightexp.search.trial_source import TrialSource
from lightexp.search.worker import EventReporter
from tests.search.studies import Studies
from tests.tiny_runs import TinyRuns

TINY = ["search=_settings", "dataset=arrays", "model=article_mlp", "model.width=0.1", "pipeline=prune"]
TINY += ["pipeline.stages.train.epochs=1", "pipeline.stages.prune.epochs=3", "pipeline.stages.prune.end=0.3"]
TINY += ["pipeline.stages.prune.sparsity=interval(0.5,0.9)", "measure=quick", "tracking=none", "runtime.threads=2"]


def test_two_workers_cut_trainings_short_and_promote_the_best(tmp_path: Path) -> None:
    study = Studies(tmp_path)
    study.overrides, study.flags = [*TINY, f"dataset.path={TinyRuns(tmp_path).arrays}", "search.study=tried"], []
    goals = "search.objectives=[accuracy/val,size/gzip_bytes]"
    search = study.run(
        goals, "search.halving={epochs:[1],eta:2}", "search.trials=4", "search.workers=2", "search.corners=[]"
    )
    assert search.returncode == 0, search.stderr
    trials = study.list_trials()
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    promoted = [t for t in trials if PROMOTED_FROM in t.user_attrs]
    assert len(trials) - len(promoted) == 4
    assert len(promoted) == 2
    assert [read_stopped_epoch(t) for t in trials] == [None if PROMOTED_FROM in t.user_attrs else 2 for t in trials]
    folder = study.outputs / "searches/tried/trials"
    for trial in promoted:
        origin = trials[trial.user_attrs[PROMOTED_FROM]]
        assert (trial.user_attrs[RUNG], trial.params) == (1, origin.params)
        short, complete = (read_record(folder / f"{t.number:04d}").stages[-1].facts for t in (origin, trial))
        assert short["history"]["seconds"] == complete["history"]["seconds"][:2]  # continued, not trained again
        assert len(complete["history"]["loss"]) == 3
    front = study.read_front()
    assert {point["trial"] for point in front["front"]} <= {t.number for t in promoted}
    assert len(front["hypervolume"]) == len(promoted)
    assert f"{len(promoted)} trials done, 4 cut short, 0 failed" in search.stdout
    assert "cut short after epoch 2" in search.stderr


@pytest.mark.parametrize(("lower", "stopped"), [(2.0, 2), (0.0, None)])
def test_pruner_stops_a_training_that_falls_behind(
    tensorflow: None, make_spec: Callable[..., StudySpec], tmp_path: Path, lower: float, stopped: int | None
) -> None:
    pruner = f"search.pruner={{_target_:optuna.pruners.ThresholdPruner,lower:{lower}}}"
    overrides = ["search.objectives=[accuracy/val]", "search.corners=[]"]
    spec = make_spec(*TINY, *overrides, f"dataset.path={TinyRuns(tmp_path).arrays}", pruner)
    spec.check()
    space = spec.make_space({})
    study = SearchStudy(spec, space, tmp_path / "study", print, spec.compute_identity(space, {"train": "0"}))
    events: Any = Mock()
    source = TrialSource(study, [], EventReporter(events))
    task = source.claim()
    assert task is not None
    source.finish(task, task.run())
    trial = study.trials[0]
    assert trial.state is (TrialState.PRUNED if stopped else TrialState.COMPLETE)
    assert list(trial.intermediate_values) == [1]  # neither the schedule's epoch nor the last one is reported
    assert read_stopped_epoch(trial) == stopped
    status = compute_status(study.trials, spec.objectives)
    assert (len(status.done), len(status.cut_short)) == ((0, 1) if stopped else (1, 0))
    record = read_record(study.get_trial_folder(0))
    assert (record.reason or "").startswith("prune: pruned after epoch 2 of 3" if stopped else "")
    assert not any(STOPPED_FACT in stage.facts for stage in record.stages)
