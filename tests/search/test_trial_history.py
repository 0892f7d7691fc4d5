"""What a process knows of a study's trials, and which of them samplers learn from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import NSGAIISampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lightexp.core.hypervolume import find_front
from lightexp.search.outcome import PROMOTED_FROM
from lightexp.search.samplers import HistorySampler, HistorySpaceSampler
from lightexp.search.trial_history import MAX_RECENT, TrialHistory
from tests.search.trials import SPARSITY, make_trials

GOALS = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
LONG = 2_000


def make_history(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection] = GOALS) -> TrialHistory:
    history = TrialHistory(directions, max_failures=2)
    history.update(trials)
    return history


def draw_points(count: int) -> list[tuple[float, float]]:
    draw = np.random.default_rng(0)
    return [(float(a), float(b)) for a, b in zip(draw.random(count), draw.random(count) * 1_000, strict=True)]


@pytest.fixture(scope="module")
def long_trials() -> list[FrozenTrial]:
    return make_trials(draw_points(LONG), ["size/file_bytes <= 800"])


def test_sample_of_a_long_study_is_recent_trials_and_the_front(long_trials: list[FrozenTrial]) -> None:
    numbers = [trial.number for trial in make_history(long_trials).sample()]
    feasible = [trial for trial in long_trials if not trial.constraints["size/file_bytes <= 800"] > 0]
    points = [(-trial.values[0], trial.values[1]) for trial in feasible]
    front = {trial.number for trial, is_on in zip(feasible, find_front(points), strict=True) if is_on}
    assert numbers == sorted(numbers)
    assert numbers[-MAX_RECENT:] == list(range(LONG - MAX_RECENT, LONG))
    assert front <= set(numbers)
    assert len(numbers) < MAX_RECENT + 60


def test_sample_is_the_same_however_trials_were_read(long_trials: list[FrozenTrial]) -> None:
    step_by_step = TrialHistory(GOALS, max_failures=2)
    for count in (1, 700, 701, LONG):
        step_by_step.update(long_trials[:count])
    assert step_by_step.sample() == make_history(long_trials).sample()


def test_sample_with_one_objective_holds_the_best(long_trials: list[FrozenTrial]) -> None:
    trials = [optuna.create_trial(value=t.values[0]) for t in long_trials]
    for number, trial in enumerate(trials):
        trial.number = number
    best = sorted(trials, key=lambda trial: -trial.values[0])[:25]
    assert {t.number for t in best} <= {t.number for t in make_history(trials, GOALS[:1]).sample()}


def test_sample_of_equal_trials_is_bounded() -> None:
    assert len(make_history(make_trials([(0.5, 500.0)] * LONG)).sample()) == MAX_RECENT + 1


def test_short_study_is_sampled_as_optuna_does() -> None:
    warnings.simplefilter("ignore", ExperimentalWarning)
    study = optuna.create_study(directions=GOALS)
    study.add_trials(make_trials(draw_points(40), ["size/file_bytes <= 800"]))
    settings: dict[str, Any] = {"seed": 1, "multivariate": True, "group": True, "constant_liar": False}
    proposals = []
    for sampler in (TPESampler(**settings), HistorySampler(TPESampler(**settings), make_history(study.trials))):
        trial: Any = study.trials[-1]
        space = sampler.infer_relative_search_space(study, trial)
        proposals.append(sampler.sample_relative(study, trial, space))
    assert proposals[0] == proposals[1]
    assert SPARSITY in proposals[0]


def test_space_of_a_history_is_that_of_all_its_trials() -> None:
    study = optuna.create_study(directions=GOALS)
    trials = make_trials(draw_points(60), ["size/file_bytes <= 800"])
    for number, state in ((20, TrialState.PRUNED), (40, TrialState.COMPLETE)):  # each with one parameter less
        first, *others = trials[number].params
        values = trials[number].values if state is TrialState.COMPLETE else None
        trials[number] = optuna.create_trial(
            state=state,
            values=values,
            params={name: trials[number].params[name] for name in others},
            distributions={name: trials[number].distributions[name] for name in others},
        )
        assert first in trials[0].params
    for expected_size, known in ((2, trials[:40]), (1, trials[40:])):
        study.add_trials(known)
        study.ask()
        proposals = []
        for wrap in (lambda sampler, _: sampler, HistorySpaceSampler):
            sampler = wrap(NSGAIISampler(seed=1, population_size=10), make_history(study.trials))
            trial: Any = study.trials[-1]
            space = sampler.infer_relative_search_space(study, trial)
            proposals.append((space, sampler.sample_relative(study, trial, space)))
        assert proposals[0] == proposals[1]
        assert len(proposals[0][0]) == expected_size


def test_history_follows_trials_from_start_to_end() -> None:
    trials = make_trials([(0.5, 500.0)] * 3)
    trials[1].state, trials[1].datetime_complete = TrialState.RUNNING, None
    trials[2].state, trials[2].datetime_complete = TrialState.WAITING, None
    history = make_history(trials)
    assert (history.started, history.started_configurations, len(history.list_tried(1))) == (2, 2, 2)
    assert trials[1].params in history.list_tried(0)
    assert trials[1].params not in history.list_tried(1)
    ended = make_trials([(0.5, 500.0)] * 3)
    ended[2].set_user_attr(PROMOTED_FROM, 0)
    history.update(ended)
    assert (history.started, history.started_configurations, history.live) == (3, 2, [])
    assert [trial.number for trial in history.list_visible()] == [0, 1]


def test_failures_one_after_another_are_counted_by_their_ends() -> None:
    trials = make_trials([(0.5, 500.0)] * 4)
    for trial in trials[:3]:
        trial.state = TrialState.FAIL
    assert not make_history(trials).has_too_many_failures
    trials[3].datetime_complete = trials[0].datetime_complete  # it had ended before the last failures
    assert not make_history(trials[:2]).has_too_many_failures
    assert make_history(trials[:3]).has_too_many_failures
