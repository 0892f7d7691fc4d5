"""The ask/tell core in one process: going on, other configs, failures in a row, samplers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from lightexp.core.errors import BadInput
from lightexp.core.protocols import Metric
from lightexp.core.record import Record, StageRecord
from lightexp.search import samplers
from lightexp.search.study import Proposal, SearchStudy
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import compute_status

Open = Callable[..., SearchStudy]
SPARSITY = "pipeline.stages.prune.sparsity"


@pytest.fixture
def study(make_spec: Callable[..., StudySpec], tmp_path: Path) -> Open:
    """Opens the study that some words describe, always on the same storage."""

    def opens(*words: str) -> SearchStudy:
        spec = make_spec("search.objectives=[accuracy/val,size/file_bytes]", "search.study=s", *words)
        spec.check()
        space = spec.make_space({})
        return SearchStudy(spec, space, tmp_path / "study", print, spec.compute_identity(space, {"train": "0"}))

    return opens


def record(accuracy: float, size: float) -> Record:
    """A run's record, with a control of 1,000 bytes that is right nine times of ten."""
    control = [Metric("accuracy/val", 0.9), Metric("size/file_bytes", 1_000)]
    stages = [
        StageRecord("train", "0", False, 1.0, control),
        StageRecord("quantize", "1", False, 1.0, [Metric("accuracy/val", accuracy), Metric("size/file_bytes", size)]),
    ]
    facts = {"command": "", "config": {}, "varied": [], "environment": {}, "started": 0.0, "control": "train"}
    return Record("r", "run", stages=stages, status="done", dataset={"classes": 2}, **facts)


def asked(study: SearchStudy) -> Proposal:
    """A proposal, which there has to be."""
    proposal = study.ask()
    assert proposal is not None
    return proposal


def test_the_corners_come_first_then_proposals_until_the_last(study: Open) -> None:
    one = study("search.trials=5")
    names = []
    while proposal := one.ask():
        names.append(proposal.varied[0])
        one.finish(proposal, record(0.8, 500))
    assert names[:3] == ["corner=recipe", "corner=int8", "corner=strongest"]
    assert [name.partition("=")[0] for name in names[3:]] == [SPARSITY] * 2


def test_the_same_proposals_come_whether_a_study_is_left_or_not(study: Open) -> None:
    straight = study("search.trials=8", "search.study=straight")
    while proposal := straight.ask():
        straight.finish(proposal, record(proposal.config.pipeline.stages.get("prune", {}).get("sparsity", 0.5), 500))
    for _ in range(8):
        left = study("search.trials=8")  # opened anew for every trial, as by a process that died
        proposal = asked(left)
        left.finish(proposal, record(proposal.config.pipeline.stages.get("prune", {}).get("sparsity", 0.5), 500))
    assert [t.params for t in left.trials] == [t.params for t in straight.trials]
    assert left.ask() is None


def test_more_trials_go_on_with_the_numbering(study: Open) -> None:
    one = study("search.trials=1")
    one.finish(asked(one), record(0.8, 500))
    assert one.ask() is None
    more = study("search.trials=2")
    assert asked(more).trial.number == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=1"], "was made with seed=0. Received: 1."),
        (["model=lenet5"], "was made with model.type="),
        (["search.objectives=[accuracy/val]"], "was made with search.objectives="),
        (["search.constraints=['size/file_bytes <= 1 KiB']"], "was made with search.constraints="),
        ([f"{SPARSITY}=interval(0.5,0.9)"], f"was made with search.space.{SPARSITY}="),
        (["search.sampler=random"], "was made with search.sampler="),
        (["search.resume=false"], "is there already, with 1 trials"),
    ],
)
def test_another_study_of_that_name_is_refused(study: Open, words: list[str], expected: str) -> None:
    one = study()
    one.finish(asked(one), record(0.8, 500))
    with pytest.raises(BadInput, match=r"search\.study: 's'") as refused:
        study(*words)
    assert expected in str(refused.value)


def test_what_changes_no_result_may_change(study: Open) -> None:
    one = study()
    one.finish(asked(one), record(0.8, 500))
    assert asked(study("search.trials=99", "search.workers=2", "runtime.threads=1")).trial.number == 1


def test_failures_in_a_row_end_a_study_and_a_success_between_does_not(study: Open) -> None:
    one = study("search.max_failures=2")
    for fails in (True, True, False, True, True):
        proposal = asked(one)
        one.fail(proposal.trial.number, "it broke") if fails else one.finish(proposal, record(0.8, 500))
    one.fail(asked(one).trial.number, "it broke")
    assert one.ask() is None
    assert [t.state for t in one.trials].count(TrialState.FAIL) == 5


def test_a_trial_that_two_have_run_counts_once(study: Open) -> None:
    one = study()
    proposal = asked(one)
    one.finish(proposal, record(0.8, 500))
    one.fail(proposal.trial.number, "it overran")
    one.finish(proposal, record(0.1, 100))
    assert [(t.state, t.values) for t in one.trials if t.values] == [(TrialState.COMPLETE, [0.8, 500.0])]


def test_the_standing_counts_what_keeps_to_the_constraints(study: Open) -> None:
    one = study("search.constraints=['accuracy/val >= control - 0.2']")
    for accuracy, size in [(0.8, 500), (0.6, 250), (0.85, 1_000), (0.75, 500), (0.8, 500)]:
        one.finish(asked(one), record(accuracy, size))
    now = compute_status(one.trials, one.spec.objectives)
    assert [t.number for t in now.feasible] == [0, 2, 3, 4]
    assert [t.number for t in now.front] == [2, 0]
    assert now.best is not None
    assert now.best.number == 2
    # A halving of the bytes times the 0.3 between guessing among two and an error of 0.2; none for the control's bytes.
    assert now.history == pytest.approx([0.3] * 5)
    assert one.compute_importance() == {}  # five do not tell


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "qmc"])
def test_every_sampler_proposes_what_is_new_and_then_again(study: Open, sampler: str) -> None:
    words = [f"search.sampler={sampler}", f"{SPARSITY}=choice(0.5,0.7)", "search.corners=[]"]
    one = study(*words, "search.trials=15", "pipeline.stages.prune=choice(on,off)")
    proposal = asked(one)
    while proposal:  # one is always at work
        number = proposal.trial.number
        following = one.ask()
        one.finish(proposal, record(0.5 + number / 100, 1_000 - number))
        proposal = following
    assert [t.state for t in one.trials] == [TrialState.COMPLETE] * 15
    tried = [tuple(t.params.items()) for t in one.trials]
    assert len(set(tried)) == len(set(tried[:14])) == 14 == 2 * 3 * 2 + 2  # all there are, and one of them again


def test_tpe_proposes_what_optunas_own_does(study: Open) -> None:
    one = study("search.trials=14", "pipeline.stages.prune=choice(on,off)")  # parameters that not every trial has
    how = {"multivariate": True, "group": True, "constant_liar": True}
    while proposal := one.ask():
        number = proposal.trial.number
        found = []
        for make in (partial(samplers.CachingTPESampler, one._rows), TPESampler):
            with pytest.warns(ExperimentalWarning):
                sampler = make(seed=number, **how)
            space = sampler.infer_relative_search_space(one._study, one.trials[number])
            found.append(sampler.sample_relative(one._study, one.trials[number], space))
        assert found[0] == found[1]
        one.finish(proposal, record(0.5 + (7 * number % 5) / 100, 1_000 - number))
    assert SPARSITY in found[0]
    sparsities = [t.params[SPARSITY] for t in one.trials if SPARSITY in t.params]
    assert len(set(sparsities)) == len(sparsities)
    assert one.compute_importance().keys() == {"accuracy/val", "size/file_bytes"}


def test_a_grid_is_gone_through_once_and_needs_steps(study: Open) -> None:
    words = ["search.sampler=grid", f"{SPARSITY}=range(0.5,0.8,0.1)", "search.corners=[]", "search.trials=30"]
    one = study(*words)
    proposals = list(iter(one.ask, None))  # all of them at work at once
    assert len({tuple(p.trial.params.values()) for p in proposals}) == len(proposals) == 3 * 3 * 2
    for proposal in proposals:  # the allocation decides what is bad, the scheme what is good
        _, allocation, scheme = proposal.trial.params.values()
        one.finish(proposal, record(0.1 if allocation == "uniform" else 0.9 if scheme == "int8" else 0.5, 500))
    weights = {name.rpartition(".")[2]: value for name, value in one.compute_importance()["accuracy/val"].items()}
    assert weights["scheme"] > weights["allocation"] > weights["sparsity"]
    with pytest.raises(BadInput, match="grid needs choices or steps"):
        study("search.sampler=grid", "search.study=other").ask()
