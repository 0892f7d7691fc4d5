"""History of a study's trials, which looks at each finished trial once, however many there are."""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lightexp.search.outcome import PROMOTED_FROM

MAX_RECENT = 500
"""Finished trials that TPE sees in a longer study, the most recent ones, and with them the best of the others."""
_MAX_BEST = 25  # of the others, where no front orders them: one objective, or infeasible trials


@dataclass(frozen=True, slots=True)
class SampledTrial:
    """A trial as samplers read it: Optuna computes some of these anew at each access.

    The attributes are those of `optuna.trial.FrozenTrial`.
    """

    number: int
    state: TrialState
    values: Sequence[float] | None
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    constraints: Mapping[str, float]
    system_attrs: Mapping[str, Any]
    intermediate_values: Mapping[int, float]

    @classmethod
    def read(cls, trial: FrozenTrial) -> SampledTrial:
        """Read a trial."""
        return cls(
            number=trial.number,
            state=trial.state,
            values=trial.values,
            params=trial.params,
            distributions=trial.distributions,
            constraints=trial.constraints,
            system_attrs=trial.system_attrs,
            intermediate_values=trial.intermediate_values,
        )

    @property
    def value(self) -> float | None:
        """The value of a study's only objective."""
        return self.values[0] if self.values else None

    @property
    def violation(self) -> float:
        """How far the trial lies beyond its constraints, in sum."""
        return sum(value for value in self.constraints.values() if value > 0)


class TrialHistory:
    """The trials of a study, with what proposals need of them.

    Trials that successive halving has promoted repeat the configuration of another one. Proposals see them only while
    they wait.

    Attributes:
        trials: All trials, by number.
        live: Those that have not finished.
    """

    def __init__(self, directions: Sequence[StudyDirection], max_failures: int) -> None:
        """Know no trial yet.

        Args:
            directions: Of the study's objectives.
            max_failures: Number of trials that may fail one after another.
        """
        self._signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
        self._max_failures = max_failures
        self.trials: Sequence[FrozenTrial] = []
        self.live: list[FrozenTrial] = []
        self._tried: set[Hashable] = set()
        self._finished_configurations = 0
        self._grid_points: set[Any] = set()
        self._last_ended: list[tuple[datetime, int, bool]] = []
        self._first_of_kind: dict[tuple[frozenset[str], TrialState], SampledTrial] = {}
        self._sampled: list[tuple[int, SampledTrial]] = []
        self._best_feasible: list[tuple[list[float], SampledTrial]] = []
        self._least_infeasible: list[SampledTrial] = []

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Add what is new among the study's present trials.

        Args:
            trials: All of them, by number.
        """
        unfinished = [trial.number for trial in self.live if trial.number < len(trials)]  # a crash loses the last ones
        current = [trials[number] for number in [*unfinished, *range(len(self.trials), len(trials))]]
        # First, so that no trial is lost from sight by Ctrl-C.
        self.trials, self.live = trials, [trial for trial in current if not trial.state.is_finished()]
        for trial in current:
            if trial.state.is_finished():
                self._add_finished(trial)

    def _add_finished(self, trial: FrozenTrial) -> None:
        if trial.datetime_complete:
            self._last_ended.append((trial.datetime_complete, trial.number, trial.state is TrialState.FAIL))
            self._last_ended = heapq.nlargest(self._max_failures + 1, self._last_ended)
        if _is_promoted(trial):
            return
        self._finished_configurations += 1
        self._grid_points.add(trial.system_attrs.get("grid_id"))
        self._tried.add(_make_configuration(trial.params))
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            self._add_sampled(SampledTrial.read(trial))

    def _add_sampled(self, trial: SampledTrial) -> None:
        kind = frozenset(trial.distributions), trial.state
        if kind not in self._first_of_kind or trial.number < self._first_of_kind[kind].number:
            self._first_of_kind[kind] = trial
        insort(self._sampled, (trial.number, trial), key=lambda entry: entry[0])
        if trial.state is not TrialState.COMPLETE:
            return
        if trial.violation > 0:
            infeasible = [*self._least_infeasible, trial]
            self._least_infeasible = heapq.nsmallest(_MAX_BEST, infeasible, key=lambda t: (t.violation, t.number))
            return
        point = [sign * value for sign, value in zip(self._signs, trial.values or (), strict=True)]
        if len(self._signs) == 1:
            entries = [*self._best_feasible, (point, trial)]
            self._best_feasible = heapq.nsmallest(_MAX_BEST, entries, key=lambda entry: (entry[0], entry[1].number))
        else:
            self._add_if_undominated(point, trial)

    def _add_if_undominated(self, point: list[float], trial: SampledTrial) -> None:
        """Add a trial to the front unless another one dominates it; of equal ones the first stays."""
        for other_point, other in self._best_feasible:
            if _is_at_least_as_good(other_point, point) and (other_point != point or other.number < trial.number):
                return
        undominated = [entry for entry in self._best_feasible if not _is_at_least_as_good(point, entry[0])]
        self._best_feasible = [*undominated, (point, trial)]

    @property
    def started(self) -> int:
        """Number of trials that do not wait."""
        return len(self.trials) - sum(trial.state is TrialState.WAITING for trial in self.live)

    @property
    def started_configurations(self) -> int:
        """Number of trials that do not wait, without promoted ones."""
        running = sum(trial.state is TrialState.RUNNING and not _is_promoted(trial) for trial in self.live)
        return self._finished_configurations + running

    @property
    def grid_points(self) -> set[Any]:
        """Points of a grid on which a trial has been started."""
        started = (trial.system_attrs.get("grid_id") for trial in self.live if trial.state is not TrialState.WAITING)
        return (self._grid_points | set(started)) - {None}

    @property
    def has_too_many_failures(self) -> bool:
        """Whether more trials have failed, one after another, than the study allows."""
        return len(self._last_ended) > self._max_failures and all(failed for *_, failed in self._last_ended)

    def list_visible(self, states: Iterable[TrialState] | None = None) -> list[FrozenTrial]:
        """Return the trials that proposals see, by number.

        Args:
            states: Their states. Defaults to None: all.
        """
        trials = self.trials
        if states is not None and not any(state.is_finished() for state in states):
            trials = self.live
        return [trial for trial in trials if (states is None or trial.state in states) and is_visible(trial)]

    def list_tried(self, number: int) -> TriedConfigurations:
        """Return the configurations of the trials that proposals see, without one trial's.

        Args:
            number: Of the trial that a configuration is proposed for.
        """
        others = [trial for trial in self.live if is_visible(trial) and trial.number != number]
        configurations = [_make_configuration(trial.params) for trial in others]
        return TriedConfigurations(self._tried, configurations, self._finished_configurations + len(others))

    @property
    def first_of_each_parameter_set(self) -> list[SampledTrial]:
        """Of the trials that samplers learn from, the first with each set of parameters and each state, by number."""
        return _sort_by_number(self._first_of_kind.values())

    def sample(self) -> list[SampledTrial]:
        """Return the trials that TPE learns from, by number.

        All of them up to `MAX_RECENT`. Of more, the most recent ones, and of the older ones the front of the feasible
        trials (with one objective the best ones) and the infeasible trials closest to the constraints.
        """
        recent = [trial for _, trial in self._sampled[-MAX_RECENT:]]
        running = [SampledTrial.read(trial) for trial in self.list_visible((TrialState.RUNNING,))]
        older: list[SampledTrial] = []
        if len(self._sampled) > MAX_RECENT:
            best = _sort_by_number([*(trial for _, trial in self._best_feasible), *self._least_infeasible])
            older = [trial for trial in best if trial.number < recent[0].number][-MAX_RECENT:]
        return _sort_by_number([*older, *recent, *running])


class TriedConfigurations:
    """The configurations that earlier trials have tried."""

    def __init__(self, finished: set[Hashable], live: Sequence[Hashable], count: int) -> None:
        """Take the configurations of finished trials and of the others, and the number of all trials."""
        self._finished, self._live, self._count = finished, live, count

    def __contains__(self, params: Mapping[str, Any]) -> bool:
        configuration = _make_configuration(params)
        return configuration in self._finished or configuration in self._live

    def __len__(self) -> int:
        return self._count


def _sort_by_number(trials: Iterable[SampledTrial]) -> list[SampledTrial]:
    return sorted(trials, key=lambda trial: trial.number)


def is_visible(trial: FrozenTrial) -> bool:
    """Return whether proposals see a trial."""
    return not _is_promoted(trial) or trial.state is TrialState.WAITING


def _make_configuration(params: Mapping[str, Any]) -> Hashable:
    return frozenset(params.items())


def _is_promoted(trial: FrozenTrial) -> bool:
    return PROMOTED_FROM in trial.user_attrs


def _is_at_least_as_good(point: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(point, other, strict=True))
