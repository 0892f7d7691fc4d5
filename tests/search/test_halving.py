"""Which trial goes on under successive halving, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
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

GOALS = (SearchObjective("accuracy/val", "max"), SearchObjective("size/file_bytes", "min"))
CONTROL = {"accuracy/val": 0.9, "size/file_bytes": 1_000.0}
POINTS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 12), st.sampled_from([0, 0, 0, 1, 2])), min_size=1, max_size=24
)


def trial(
    number: int, accuracy: float, size: float, beyond: float = 0.0, stopped: int | None = 4, **attrs: int
) -> FrozenTrial:
    """A finished trial."""
    outcome = TrialOutcome(control=CONTROL, stopped=stopped)
    made = optuna.trial.create_trial(
        values=[accuracy, size], user_attrs={OUTCOME: asdict(outcome), **attrs}, constraints={"c": beyond}
    )
    made.number = number
    return made


def trials(points: list[tuple[int, int, int]]) -> list[FrozenTrial]:
    """Trials with tenths of accuracy, hundreds of bytes and a violation."""
    return [trial(n, a / 10, 100.0 * b, float(v)) for n, (a, b, v) in enumerate(points)]


@given(POINTS)
def test_the_front_goes_first_and_what_breaks_a_constraint_last(points: list[tuple[int, int, int]]) -> None:
    there = trials(points)
    order = rank_trials(there, GOALS)
    assert sorted(t.number for t in order) == list(range(len(there)))
    inside = [t for t in order if t.constraints["c"] <= 0]
    assert order[: len(inside)] == inside
    violations = [t.constraints["c"] for t in order[len(inside) :]]
    assert violations == sorted(violations)
    places = np.array([place_on_axes(t, GOALS)[0] for t in inside]).reshape(-1, 2)
    for index, place in enumerate(places):  # nothing that comes later dominates it
        assert not ((places[index:] <= place).all(axis=1) & (places[index:] < place).any(axis=1)).any()


@given(POINTS, st.integers(1, 5))
def test_each_next_one_of_the_front_adds_most_to_the_hypervolume(
    points: list[tuple[int, int, int]], count: int
) -> None:
    inside = [t for t in rank_trials(trials(points), GOALS) if t.constraints["c"] <= 0]
    if not inside:
        return
    places = [place_on_axes(t, GOALS)[0] for t in inside]
    reference = place_on_axes(inside[0], GOALS)[1]
    size = int(find_front(places).sum())
    count = min(count, size)
    best = max(compute_hypervolume([*places[: count - 1], p], reference) for p in places[count - 1 : size])
    assert compute_hypervolume(places[:count], reference) == pytest.approx(best)


@given(POINTS, POINTS, st.integers(2, 4))
def test_one_of_eta_goes_on_rung_by_rung_and_only_the_best(
    points: list[tuple[int, int, int]], more: list[tuple[int, int, int]], eta: int
) -> None:
    halving = SuccessiveHalving([1, 3], eta)
    seen: list[FrozenTrial] = []
    for batch in (points, more):  # the second, as when a study is gone on with for more trials
        for new in trials(batch):
            new.number = len(seen)
            seen.append(new)
        rungs = []
        while found := halving.select_promotable(seen, GOALS):
            rungs.append(found.user_attrs.get(RUNG, 0))
            there = [t for t in seen if t.user_attrs.get(RUNG, 0) == rungs[-1]]
            came = {t.user_attrs[PROMOTED_FROM] for t in seen if PROMOTED_FROM in t.user_attrs}
            assert found is next(t for t in rank_trials(there, GOALS) if t.number not in came)
            # More epochs, a little better; the third rung is the training's end.
            stopped = None if rungs[-1] == 1 else 9
            attrs = {PROMOTED_FROM: found.number, RUNG: rungs[-1] + 1}
            seen.append(trial(len(seen), found.values[0], found.values[1], found.constraints["c"], stopped, **attrs))
            seen[-1].state = TrialState.RUNNING
            after = halving.select_promotable(seen, GOALS)
            assert after is None or after.user_attrs.get(RUNG, 0) == rungs[-1]  # none above what runs
            seen[-1].state = TrialState.COMPLETE
        assert rungs == sorted(rungs)
        counts = [sum(t.user_attrs.get(RUNG, 0) == n for t in seen) for n in range(4)]
        assert counts[1:] == [max(1, counts[0] // eta), max(1, counts[1] // eta), 0]


def test_trials_that_run_or_were_trained_to_the_end_are_not_compared() -> None:
    there = [trial(n, 0.5 + n / 100, 500, stopped=None) for n in range(9)]
    assert SuccessiveHalving().select_promotable(there, GOALS) is None
    there = [trial(n, 0.5 + n / 100, 500) for n in range(3)]
    assert SuccessiveHalving().select_promotable(there, GOALS) is there[2]
    there[2].state = TrialState.FAIL
    assert SuccessiveHalving().select_promotable(there, GOALS) is there[1]
    there[0].state = TrialState.RUNNING
    assert SuccessiveHalving().select_promotable(there, GOALS) is None


@given(st.integers(0, 9), st.integers(1, 40), st.integers(0, 6), st.sets(st.integers(1, 50), min_size=1))
def test_rungs_stop_ever_later_and_then_not_at_all(settled: int, rest: int, number: int, epochs: set[int]) -> None:
    whole, asked = settled + rest, sorted(epochs)
    stops = Rung(number, tuple(asked)).stops(settled, whole)
    numbers = [stop for stop in stops if stop is not None]
    assert numbers == [settled + n for n in asked[: number + 1] if n < rest]
    assert stops[len(numbers) :] == ([None] if number >= len(numbers) else [])


def record(accuracy: float, size: float, stopped: int | None) -> Record:
    """A run's record."""
    control = [Metric(name, value) for name, value in CONTROL.items()]
    facts = {STOPPED_FACT: stopped} if stopped else {}
    end = [Metric("accuracy/val", accuracy), Metric("size/file_bytes", size)]
    stages = [StageRecord("train", "0", False, 1.0, control), StageRecord("prune", "1", False, 1.0, end, facts=facts)]
    made = {"command": "", "config": {}, "varied": [], "environment": {}, "started": 0.0, "control": "train"}
    return Record("r", "run", stages=stages, status="done", dataset={"classes": 2}, **made)


def test_a_study_begins_all_and_then_goes_on_with_its_best(make_spec: Callable[..., StudySpec], tmp_path: Path) -> None:
    words = ["search.halving={epochs:[1,2],eta:2}", "search.trials=12"]
    spec = make_spec("search.objectives=[accuracy/val,size/file_bytes]", *words)
    spec.check()
    space = spec.make_space({})

    def opened() -> SearchStudy:
        return SearchStudy(spec, space, tmp_path / "study", print, spec.compute_identity(space, {"train": "0"}))

    asked, weights = [], []
    while proposal := (one := opened()).ask():  # anew for every trial, as by a process that died
        assert one.may_promote
        settings = spec.make_trial_settings(proposal.config, proposal.rung)
        assert settings.rung == Rung(proposal.rung, (1, 2))
        asked.append(
            (proposal.trial.number, proposal.rung, proposal.trial.user_attrs.get(PROMOTED_FROM), proposal.config)
        )
        weights.append(one.compute_importance())
        if len(asked) in (12, 18):  # the last of its rung, which the next waits for
            assert opened().ask() is None
        accuracy = 0.5 + 0.01 * (asked[-1][2] or proposal.trial.number)
        one.finish(proposal, record(accuracy, 500, None if proposal.rung == 2 else 4))
    assert not one.may_promote
    assert [rung for _, rung, *_ in asked] == [0] * 12 + [1] * 6 + [2] * 3
    assert [of for *_, of, _ in asked[12:]] == [11, 10, 9, 8, 7, 6, 12, 13, 14]
    configs = {number: config for number, _, _, config in asked}
    assert all(config == configs[of] for _, _, of, config in asked if of is not None)
    now = compute_status(one.trials, spec.objectives)
    assert (len(now.done), len(now.cut_short)) == (3, 18)
    assert set(map(id, now.front)) <= set(map(id, now.done))
    assert len(now.history) == 3
    assert one.compute_importance() == weights[12] != {}  # of what begun, each once


@pytest.mark.parametrize(
    ("words", "expected"),
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
def test_what_cannot_be_cut_short_that_way_is_refused(
    make_spec: Callable[..., StudySpec], words: list[str], expected: str
) -> None:
    with pytest.raises(BadInput) as refused:
        make_spec(*words).check()
    assert expected.lower() in str(refused.value).lower()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pipeline=quantize"], "no stage after the control trains"),
        (["pipeline.stages.prune.early_stopping=2"], "'prune' sets early_stopping"),
        (["pipeline=prune_channels"], "'prune_channels' trains in several rounds"),
        (["pipeline.stages.prune.epochs=2"], "its schedules take 1 of 2 epochs"),
    ],
)
def test_a_pipeline_that_has_nothing_to_cut_short_is_refused(
    make_spec: Callable[..., StudySpec], words: list[str], expected: str
) -> None:
    spec = make_spec("search=_settings", "search.halving={}", *words)
    assert spec.halving is not None
    with pytest.raises(BadInput, match=r"search\.halving") as refused:
        spec.halving.check(spec.settings, 1_000)
    assert expected in str(refused.value)
