"""Searches that train: successive halving by two workers, and a pruner of Optuna's."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from lightexp.core.record import read_record
from lightexp.runner.execute import STOPPED_FACT
from lightexp.runner.run import Runner
from lightexp.search import worker
from lightexp.search.outcome import OUTCOME, PROMOTED_FROM, RUNG
from lightexp.search.study import SearchStudy
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import compute_status
from tests.search.studies import Studies
from tests.tiny_runs import TinyRuns

TINY = ["search=_settings", "dataset=arrays", "model=article_mlp", "model.width=0.1", "pipeline=prune"]
TINY += ["pipeline.stages.train.epochs=1", "pipeline.stages.prune.epochs=3", "pipeline.stages.prune.end=0.3"]
TINY += ["pipeline.stages.prune.sparsity=interval(0.5,0.9)", "measure=quick", "tracking=none", "runtime.threads=2"]


def test_two_workers_cut_trainings_short_and_go_on_with_the_best(tmp_path: Path) -> None:
    study = Studies(tmp_path)
    study.words, study.flags = [*TINY, f"dataset.path={TinyRuns(tmp_path).arrays}", "search.study=tried"], []
    goals = "search.objectives=[accuracy/val,size/gzip_bytes]"
    done = study.run(
        goals, "search.halving={epochs:[1],eta:2}", "search.trials=4", "search.workers=2", "search.corners=[]"
    )
    assert done.returncode == 0, done.stderr
    trials = study.trials()
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    whole = [t for t in trials if PROMOTED_FROM in t.user_attrs]
    assert len(trials) - len(whole) == 4
    assert len(whole) == 2
    assert [t.user_attrs[OUTCOME]["stopped"] for t in trials] == [
        None if PROMOTED_FROM in t.user_attrs else 2 for t in trials
    ]
    for trial in whole:
        before = trials[trial.user_attrs[PROMOTED_FROM]]
        assert (trial.user_attrs[RUNG], trial.params) == (1, before.params)
        lower, upper = (
            read_record(study.outputs / "searches/tried/trials" / f"{t.number:04d}") for t in (before, trial)
        )
        first, then = (r.stages[-1].facts["history"] for r in (lower, upper))
        assert first["seconds"] == then["seconds"][:2]  # gone on with, not trained again
        assert len(then["loss"]) == 3
    front = study.front()
    assert {point["trial"] for point in front["front"]} <= {t.number for t in whole}
    assert len(front["hypervolume"]) == len(whole)
    assert f"{len(whole)} trials done, 4 cut short, 0 failed" in done.stdout
    assert "cut short after epoch 2" in done.stderr


@pytest.mark.parametrize(("lower", "stopped"), [(2.0, 2), (0.0, None)])
def test_a_pruner_stops_a_training_that_falls_behind(
    tensorflow: None, make_spec: Callable[..., StudySpec], tmp_path: Path, lower: float, stopped: int | None
) -> None:
    pruner = f"search.pruner={{_target_:optuna.pruners.ThresholdPruner,lower:{lower}}}"
    words = ["search.objectives=[accuracy/val]", "search.corners=[]", f"dataset.path={TinyRuns(tmp_path).arrays}"]
    spec = make_spec(*TINY, *words, pruner)
    spec.check()
    space = spec.make_space({})
    study = SearchStudy(spec, space, tmp_path / "study", print, spec.compute_identity(space, {"train": "0"}))
    proposal = study.ask()
    assert proposal is not None
    told = worker._Told(io.StringIO())
    worker._try(spec, study, Runner(told), told, proposal, [])
    trial = study.trials[0]
    assert trial.state is (TrialState.PRUNED if stopped else TrialState.COMPLETE)
    assert list(trial.intermediate_values) == [1]  # the schedule's epoch and the last one are no ones to compare
    assert trial.user_attrs[OUTCOME]["stopped"] == stopped
    now = compute_status(study.trials, spec.objectives)
    assert (len(now.done), len(now.cut_short)) == ((0, 1) if stopped else (1, 0))
    record = read_record(study.get_trial_folder(0))
    assert (record.reason or "").startswith("prune: pruned after epoch 2 of 3" if stopped else "")
    assert not any(STOPPED_FACT in stage.facts for stage in record.stages)
