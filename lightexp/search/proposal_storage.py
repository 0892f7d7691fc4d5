"""View of a study's storage for Optuna: serves trials that are known, and stores a trial's changes together."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from lightexp.search.trial_history import TrialHistory, is_visible


class LostTrialError(Exception):
    """A crash of the storage's server has lost a trial that was just created."""


@dataclass
class TrialChanges:
    """Changes of one trial that are not stored yet.

    Attributes:
        params: Optuna's internal value and the distribution of each parameter.
        system_attrs: Attributes that Optuna uses.
        user_attrs: Other attributes.
        state: The state in which the trial has ended. Defaults to None: it goes on.
        values: The objectives' values.
    """

    params: dict[str, tuple[float, BaseDistribution]] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    state: TrialState | None = None
    values: Sequence[float] | None = None

    def write(self, storage: BaseStorage, trial_id: int) -> None:
        """Store the changes one after another."""
        for name, (value, distribution) in self.params.items():
            storage.set_trial_param(trial_id, name, value, distribution)
        for name, attribute in self.system_attrs.items():
            storage.set_trial_system_attr(trial_id, name, attribute)
        for name, attribute in self.user_attrs.items():
            storage.set_trial_user_attr(trial_id, name, attribute)
        if self.state is not None:
            storage.set_trial_state_values(trial_id, self.state, self.values)


class ProposalStorage:
    """View of a study's storage in which one trial is proposed, run and finished.

    Promoted trials are hidden, so that samplers compare all trials at the first rung: they were trained for longer than
    the others and repeat the configuration of a trial that samplers know. While such a trial waits to be started it is
    visible, since Optuna looks there for enqueued trials.
    """

    def __init__(self, storage: Any, history: TrialHistory) -> None:
        """Wrap a storage.

        Args:
            storage: A `lightexp.search.storage.RetryingStorage`, which does everything else.
            history: The study's trials, as far as this process knows them.
        """
        self._storage, self._history = storage, history
        self._current: tuple[int, FrozenTrial] | None = None
        self._changes: TrialChanges | None = None

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped storage."""
        return getattr(self._storage, name)

    @contextmanager
    def collect_changes(self, trial_id: int | None = None) -> Iterator[None]:
        """Serve trials from the history in a block, and store what changes of the current trial at the block's end.

        The current trial is the last one that was started.

        Args:
            trial_id: Of a trial that is to be the current one. Defaults to None: none before it is started.

        Raises:
            optuna.exceptions.UpdateFinishedTrialError: If the current trial has ended; nothing is stored then.
            LostTrialError: If the current trial was just created, and is lost.
        """
        outer, self._changes = self._changes, TrialChanges()
        if trial_id is not None and not (self._current and self._current[0] == trial_id):
            self.start(trial_id)
        try:
            yield
            if self._current is not None and self._changes != TrialChanges():
                self._storage.write_trial(self._current[0], self._changes)
        finally:
            self._changes = outer

    def start(self, trial_id: int) -> None:
        """Make a trial the current one."""
        self._current = trial_id, copy.deepcopy(self._storage.get_trial(trial_id))

    def _find_collected(self, trial_id: int) -> tuple[FrozenTrial, TrialChanges] | None:
        """Return the current trial and its changes, if a trial's changes are collected."""
        if self._changes is None or self._current is None or self._current[0] != trial_id:
            return None
        return self._current[1], self._changes

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Collection[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the visible trials; see `optuna.storages.BaseStorage.get_all_trials`."""
        if self._changes is None:
            return [t for t in self._storage.get_all_trials(study_id, deepcopy, states) if is_visible(t)]
        trials = self._history.list_visible(states)
        return copy.deepcopy(trials) if deepcopy else trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create a trial; without a template it becomes the current one."""
        trial_id: int = self._storage.create_new_trial(study_id, template_trial)
        if template_trial is None:
            self.start(trial_id)
        return trial_id

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial; see `optuna.storages.BaseStorage.get_trial`."""
        collected = self._find_collected(trial_id)
        return collected[0] if collected else self._storage.get_trial(trial_id)

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """Return a trial's system attributes; see `optuna.storages.BaseStorage.get_trial_system_attrs`."""
        return self.get_trial(trial_id).system_attrs

    def set_trial_param(self, trial_id: int, name: str, value: float, distribution: BaseDistribution) -> None:
        """Store a parameter; see `optuna.storages.BaseStorage.set_trial_param`."""
        if not (collected := self._find_collected(trial_id)):
            self._storage.set_trial_param(trial_id, name, value, distribution)
            return
        trial, changes = collected
        trial.params = {**trial.params, name: distribution.to_external_repr(value)}
        trial.distributions = {**trial.distributions, name: distribution}
        changes.params[name] = value, distribution

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Store a system attribute; see `optuna.storages.BaseStorage.set_trial_system_attr`."""
        if not (collected := self._find_collected(trial_id)):
            self._storage.set_trial_system_attr(trial_id, key, value)
            return
        trial, changes = collected
        trial.system_attrs = {**trial.system_attrs, key: value}
        changes.system_attrs[key] = value

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Store a user attribute; see `optuna.storages.BaseStorage.set_trial_user_attr`."""
        if not (collected := self._find_collected(trial_id)):
            self._storage.set_trial_user_attr(trial_id, key, value)
            return
        trial, changes = collected
        trial.set_user_attr(key, value)
        changes.user_attrs[key] = value

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Store a trial's state and values; a trial that starts becomes the current one."""
        if state.is_finished() and (collected := self._find_collected(trial_id)):
            _, changes = collected
            changes.state, changes.values = state, values
            return True
        is_set: bool = self._storage.set_trial_state_values(trial_id, state, values)
        if is_set and state is TrialState.RUNNING:
            self.start(trial_id)
        return is_set
