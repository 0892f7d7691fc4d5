"""Successive halving: which trials are promoted, and which settings are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, TrialState

from lightexp.core.errors import BadInput
from lightexp.core.hypervolume import compute_hypervolume, find_front
from lightexp.core.protocols import Metric
from lightexp.core.record import Record, StageRecord
from lightexp.core.training import Rung
from lightexp.runner.execute import STOPPED_FACT
from lightexp.search.goals import SearchObjective
from lightexp.search.halving import SuccessiveHalving, rank_trials
from lightexp.search.outcome import OUTCOME, PROMOTED_FROM, RUNG, TrialOutcome, place_on_axes
from lightexp.search.study import SearchStudy
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import compute_status
from lightexp.search.trial_source import TrialSource

GOALS = (SearchObjective("accuracy/val", "max"), SearchObjective("size/file_bytes", "min"))
CONTROL = {"accuracy/val": 0.9, "size/file_bytes": 1_000.0}
POINTS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 12), st.sampled_from([0, 0, 0, 1, 2])), min_size=1, max_size=24
)


def make_trial(
    number: int, accuracy: float, size: float, violation: float = 0.0, stopped: int | None = 4, **attrs: int
) -> FrozenTrial:
    """Make a finished trial."""
    outcome = TrialOutcome(control=CONTROL, stopped=stopped)
    trial = optuna.trial.create_trial(
        values=[accuracy, size], user_attrs={OUTCOME: asdict(outcome), **attrs}, constraints={"c": violation}
    )
    trial.number = number
    return trial


def make_trials(points: list[tuple[int, int, int]]) -> list[FrozenTrial]:
    """Make trials from tenths of accuracy, hundreds of bytes and a violation."""
    return [make_trial(n, a / 10, 100.0 * b, float(v)) for n, (a, b, v) in enumerate(points)]


@given(POINTS)
def test_rank_trials_puts_the_front_first_and_infeasible_last(points: list[tuple[int, int, int]]) -> None:
    trials = make_trials(points)
    ranked = rank_trials(trials, GOALS)
    assert sorted(t.number for t in ranked) == list(range(len(trials)))
    feasible = [t for t in ranked if t.constraints["c"] <= 0]
    assert ranked[: len(feasible)] == feasible
    violations = [t.constraints["c"] for t in ranked[len(feasible) :]]
    assert violations == sorted(violations)
    places = np.array([point for point, _ in place_on_axes(feasible, GOALS).values()]).reshape(-1, 2)
    for index, place in enumerate(places):  # no later trial dominates it
        assert not ((places[index:] <= place).all(axis=1) & (places[index:] < place).any(axis=1)).any()


@given(POINTS.filter(lambda points: any(not violation for *_, violation in points)), st.integers(1, 5))
def test_rank_trials_adds_most_hypervolume_first(points: list[tuple[int, int, int]], count: int) -> None:
    feasible = [t for t in rank_trials(make_trials(points), GOALS) if t.constraints["c"] <= 0]
    places = [point for point, _ in place_on_axes(feasible, GOALS).values()]
    reference = next(iter(place_on_axes(feasible, GOALS).values()))[1]
    front_size = int(find_front(places).sum())
    count = min(count, front_size)
    best = max(compute_hypervolume([*places[: count - 1], p], reference) for p in places[count - 1 : front_size])
    assert compute_hypervolume(places[:count], reference) == pytest.approx(best)


@given(POINTS, POINTS, st.integers(2, 4))
def test_select_promotable_takes_one_of_eta_rung_by_rung(
    points: list[tuple[int, int, int]], more: list[tuple[int, int, int]], eta: int
) -> None:
    halving = SuccessiveHalving([1, 3], eta)
    trials: list[FrozenTrial] = []
    for batch in (points, more):  # the second, as when a study is continued for more trials
        for new in make_trials(batch):
            new.number = len(trials)
            trials.append(new)
        rungs = []
        while origin := halving.select_promotable(trials, GOALS):
            rungs.append(origin.user_attrs.get(RUNG, 0))
            on_rung = [t for t in trials if t.user_attrs.get(RUNG, 0) == rungs[-1]]
            promoted = {t.user_attrs[PROMOTED_FROM] for t in trials if PROMOTED_FROM in t.user_attrs}
            assert origin is next(t for t in rank_trials(on_rung, GOALS) if t.number not in promoted)
            stopped = None if rungs[-1] == 1 else 9  # the third rung is the training's end
            attrs = {PROMOTED_FROM: origin.number, RUNG: rungs[-1] + 1}
            accuracy, size = origin.values
            trials.append(make_trial(len(trials), accuracy, size, origin.constraints["c"], stopped, **attrs))
            trials[-1].state = TrialState.RUNNING
            following = halving.select_promotable(trials, GOALS)
            assert following is None or following.user_attrs.get(RUNG, 0) == rungs[-1]  # none above a running trial
            trials[-1].state = TrialState.COMPLETE
        assert rungs == sorted(rungs)
        counts = [sum(t.user_attrs.get(RUNG, 0) == n for t in trials) for n in range(4)]
        assert counts[1:] == [max(1, counts[0] // eta), max(1, counts[1] // eta), 0]


def test_select_promotable_waits_for_running_trials() -> None:
    complete = [make_trial(n, 0.5 + n / 100, 500, stopped=None) for n in range(9)]
    assert SuccessiveHalving().select_promotable(complete, GOALS) is None
    trials = [make_trial(n, 0.5 + n / 100, 500) for n in range(3)]
    assert SuccessiveHalving().select_promotable(trials, GOALS) is trials[2]
    trials[2].state = TrialState.FAIL
    assert SuccessiveHalving().select_promotable(trials, GOALS) is trials[1]
    trials[0].state = TrialState.RUNNING
    assert SuccessiveHalving().select_promotable(trials, GOALS) is None


@given(st.integers(0, 9), st.integers(1, 40), st.integers(0, 6), st.sets(st.integers(1, 50), min_size=1))
def test_rungs_stop_ever_later_and_then_not_at_all(
    scheduled: int, remaining: int, number: int, epochs: set[int]
) -> None:
    total, increasing = scheduled + remaining, sorted(epochs)
    stops = Rung(number, tuple(increasing)).stops(scheduled, total)
    numbers = [stop for stop in stops if stop is not None]
    assert numbers == [scheduled + n for n in increasing[: number + 1] if n < remaining]
    assert stops[len(numbers) :] == ([None] if number >= len(numbers) else [])


def make_record(accuracy: float, size: float, stopped: int | None) -> Record:
    """Make a run's record."""
    control = [Metric(name, value) for name, value in CONTROL.items()]
    facts = {STOPPED_FACT: stopped} if stopped else {}
    end = [Metric("accuracy/val", accuracy), Metric("size/file_bytes", size)]
    stages = [StageRecord("train", "0", False, 1.0, control), StageRecord("prune", "1", False, 1.0, end, facts=facts)]
    rest = {"command": "", "config": {}, "varied": [], "environment": {}, "started": 0.0, "control": "train"}
    return Record("r", "run", stages=stages, status="done", dataset={"classes": 2}, **rest)


def test_study_starts_all_and_then_promotes_the_best(make_spec: Callable[..., StudySpec], tmp_path: Path) -> None:
    overrides = ["search.halving={epochs:[1,2],eta:2}", "search.trials=12"]
    spec = make_spec("search.objectives=[accuracy/val,size/file_bytes]", *overrides)
    spec.check()
    space = spec.make_space({})

    def open_study() -> SearchStudy:
        return SearchStudy(spec, space, tmp_path / "study", print, spec.compute_identity(space, {"train": "0"}))

    started: list[tuple[int, int, int | None, DictConfig]] = []
    importance = []
    study = open_study()
    while proposal := study.ask():
        assert TrialSource(study, []).status().may_grow
        assert spec.make_trial_settings(proposal.config, proposal.rung).rung == Rung(proposal.rung, (1, 2))
        origin = proposal.trial.user_attrs.get(PROMOTED_FROM)
        started.append((proposal.trial.number, proposal.rung, origin, proposal.config))
        importance.append(study.compute_importance())
        if len(started) in (12, 18):  # the last trial of its rung, for which the next rung waits
            assert open_study().ask() is None
        accuracy = 0.5 + 0.01 * (origin or proposal.trial.number)
        study.finish(proposal, make_record(accuracy, 500, None if proposal.rung == 2 else 4))
        study = open_study()  # for every trial, as by a process that died
    assert not TrialSource(study, []).status().may_grow
    assert [rung for _, rung, *_ in started] == [0] * 12 + [1] * 6 + [2] * 3
    assert [origin for _, _, origin, _ in started[12:]] == [11, 10, 9, 8, 7, 6, 12, 13, 14]
    configs = {number: config for number, _, _, config in started}
    assert all(config == configs[origin] for _, _, origin, config in started if origin is not None)
    status = compute_status(study.trials, spec.objectives)
    assert (len(status.done), len(status.cut_short)) == (3, 18)
    assert set(map(id, status.front)) <= set(map(id, status.done))
    assert len(status.history) == 3
    assert study.compute_importance() == importance[12] != {}  # each configuration once, at the first rung


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["search.halving={eta:1}"], "search.halving.eta: Input should be greater than or equal to 2. Received: 1."),
        (
            ["search.halving={epochs:[3,1]}"],
            "search.halving: each of epochs must be above the one before. Received: [3,",
        ),
        (["search.halving={epochs:1}"], "search.halving.epochs: Input should be a valid list. Received: 1."),
        (
            ["search.halving={epoch:1}"],
            "search.halving.epoch is not a setting of SuccessiveHalving: did you mean 'epochs'",
        ),
        (["search.halving={}", "search.pruner=median", "search.objectives=[accuracy/val]"], "both cut trainings short"),
        (["search.pruner=median"], "search.pruner goes by accuracy/val alone."),
        (["search.pruner=medium", "search.objectives=[accuracy/val]"], "medium is no pruner of Optuna's: "),
        (
            ["search.pruner={_target_:optuna.pruners.MedianPruner,warmup:1}", "search.objectives=[accuracy/val]"],
            "search.pruner: optuna.pruners.MedianPruner: ",
        ),
    ],
)
def test_wrong_halving_or_pruner_is_refused(
    make_spec: Callable[..., StudySpec], overrides: list[str], expected: str
) -> None:
    with pytest.raises(BadInput) as refused:
        make_spec(*overrides).check()
    assert expected.lower() in str(refused.value).lower()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["pipeline=quantize"], "no stage after the control trains"),
        (["pipeline.stages.prune.early_stopping=2"], "'prune' sets early_stopping"),
        (["pipeline=prune_channels"], "'prune_channels' trains in several rounds"),
        (["pipeline.stages.prune.epochs=2"], "its schedules take 1 of 2 epochs"),
    ],
)
def test_pipeline_with_nothing_to_cut_short_is_refused(
    make_spec: Callable[..., StudySpec], overrides: list[str], expected: str
) -> None:
    spec = make_spec("search=_settings", "search.halving={}", *overrides)
    assert spec.halving is not None
    with pytest.raises(BadInput, match=r"search\.halving") as refused:
        spec.halving.check(spec.settings, 1_000)
    assert expected in str(refused.value)
