"""Search study: asks Optuna for the next trial, and stores what became of each (the ask-and-tell interface)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState

from lightexp.core.compat import ParameterCache
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.record import Record
from lightexp.execution.locks import Locks
from lightexp.search import pruners, samplers, storage
from lightexp.search.goals import read_values
from lightexp.search.importance import compute_importance
from lightexp.search.outcome import PROMOTED_FROM, RUNG, TrialOutcome
from lightexp.search.proposal import Proposal
from lightexp.search.proposal_storage import LostTrialError, ProposalStorage
from lightexp.search.ranges import format_value
from lightexp.search.seed_trials import SeedTrial
from lightexp.search.space import VARIANT, SearchSpace
from lightexp.search.study_identity import StudyIdentity
from lightexp.search.study_schema import check_study
from lightexp.search.study_setup import SEED_TRIAL, STUDY_ID, set_up_study
from lightexp.search.study_spec import StudySpec
from lightexp.search.trial_attributes import build_outcome, list_attributes
from lightexp.search.trial_history import TrialHistory

STARTS = "starts"
"""Name of the trial attribute that says how often the trial was started."""
_MAX_STARTS = 3  # a trial whose process died so often does not fail by accident
_SHUTDOWN_GRACE_S = 5.0  # after this, running trials belong to another host


class SearchStudy:
    """A study on its storage, shared by every process that works on it."""

    def __init__(
        self,
        spec: StudySpec,
        space: SearchSpace,
        folder: Path,
        report: Callable[[str], None],
        identity: StudyIdentity | None = None,
    ) -> None:
        """Open the study, or create it and enqueue its seed trials.

        Args:
            spec: The study's specification.
            space: The study's space.
            folder: Folder of the study's files.
            report: Called with a line for the user when the storage goes away or returns.
            identity: What an existing study must have been made with. Defaults to None: another process has checked it.

        Raises:
            BadInput: If the storage cannot be used, or an existing study was made with other settings.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.spec, self.space, self.folder = spec, space, folder
        self._cache: ParameterCache = {}
        is_worker = identity is None
        self._storage, self._locks = storage.open_storage(
            spec.search.storage, folder, spec.name, report, is_worker, not is_worker or spec.search.pruner is not None
        )
        directions = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        goals = [directions[o.direction] for o in spec.objectives]
        with nullcontext() if is_worker else self._locks.exclusive():
            if not is_worker:
                optuna.create_study(storage=self._storage, study_name=spec.name, directions=goals, load_if_exists=True)
            self._history = TrialHistory(goals, spec.search.max_failures)
            self._view = ProposalStorage(self._storage, self._history)
            view: Any = self._view
            pruner = pruners.make_pruner(spec.search.pruner, spec.objectives, spec.settings.task)
            self._study = optuna.load_study(study_name=spec.name, storage=view, pruner=pruner)
            self._study_id = self._storage.get_study_id_from_name(spec.name)
            if identity is not None:
                check_study(self._study)
                set_up_study(self._study, spec, space, identity, self.trials)

    @property
    def id(self) -> str:
        """Random text that distinguishes the study from others of the same name."""
        return str(self._study.user_attrs[STUDY_ID])

    @property
    def locks(self) -> Locks:
        """Locks of the running trials, by number; negative numbers are free for other purposes."""
        return self._locks

    def requeue_interrupted(self) -> None:
        """Return trials whose workers have been stopped to the queue, for the next start.

        Waits for the workers to end, but not for trials that run on other hosts.
        """
        end = time.monotonic() + _SHUTDOWN_GRACE_S
        while True:
            with self._locks.exclusive():
                for trial in self.trials:
                    if trial.state is TrialState.RUNNING and self._locks.acquire(trial.number):
                        self.requeue(trial.number)
            if time.monotonic() > end or not any(t.state is TrialState.RUNNING for t in self.trials):
                return
            time.sleep(0.2)

    def requeue(self, number: int) -> None:
        """Return a trial that this process has locked to the queue, and release it."""
        try:
            if self.trials[number].state is TrialState.RUNNING:
                self._storage.set_trial_state_values(self._find_trial_id(number), TrialState.WAITING)
        finally:
            self._locks.release(number)

    def has_orphans(self) -> bool:
        """Return whether a trial is running that no worker has locked."""
        with self._locks.exclusive():  # a worker locks a new trial within the same block
            running = [t.number for t in self.read_history().live if t.state is TrialState.RUNNING]
            if (orphan := self._locks.acquire_first(running)) is None:
                return False
            self._locks.release(orphan)
            return True

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, oldest first, including those that `ProposalStorage` hides from samplers."""
        return self._storage.get_all_trials(self._study_id, deepcopy=False)

    def read_history(self) -> TrialHistory:
        """Read what has become of the trials, and return all of them."""
        self._history.update(self.trials)
        return self._history

    def _find_trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def ask(self) -> Proposal | None:
        """Return the next trial to run: an orphaned one, a seed trial, a new one or a promoted one.

        Returns:
            The trial, locked for this process; None if no trial is left.
        """
        while True:
            self.read_history()  # most of what others have done, while they can go on
            with self._locks.exclusive():
                self.read_history()
                try:
                    with self._view.collect_changes():
                        trial = self._resume_orphaned() or self._start_next()
                        if trial is None:
                            return None
                        self._suggest(trial)  # before another process is exclusive, which could propose the same
                except LostTrialError:
                    assert trial is not None
                    self._locks.release(trial.number)
                    continue
            try:
                return self._make_proposal(trial)
            except BadInput as error:  # the values are not allowed together
                self.fail(trial.number, str(error))

    def _resume_orphaned(self) -> Trial | None:
        """Take over a running trial whose process has died."""
        running = [trial.number for trial in self._history.live if trial.state is TrialState.RUNNING]
        while (number := self._locks.acquire_first(running)) is not None:
            running.remove(number)
            current = self._storage.get_trial(self._find_trial_id(number))  # it may have ended before it was locked
            starts = int(current.user_attrs.get(STARTS, 1)) + 1
            if current.state is TrialState.RUNNING and starts <= _MAX_STARTS:
                # Its process may have died before all of its parameters were proposed.
                self._use_sampler(number)
                self._view.start(self._find_trial_id(number))
                trial = Trial(self._study, self._find_trial_id(number))
                trial.set_user_attr(STARTS, starts)
                return trial
            if current.state is TrialState.RUNNING:
                self.fail(number, f"its process died {_MAX_STARTS} times (out of memory?)")
                self.read_history()
            self._locks.release(number)
        return None

    def _start_next(self) -> Trial | None:
        if self._history.has_too_many_failures:
            return None
        if samplers.has_configurations_left(self.spec, self.space, self._history):
            self._use_sampler(self._history.started)
        elif self._enqueue_promoted():
            self._study.sampler = RandomSampler()  # proposes nothing for an enqueued trial
        else:
            return None
        trial = self._study.ask()
        self._locks.acquire(trial.number)
        return trial

    def _use_sampler(self, count: int) -> None:
        """Set the sampler that proposes a trial after a number of earlier ones."""
        self._study.sampler = samplers.make_sampler(self.spec, self.space, count, self._history, self._cache)

    def _enqueue_promoted(self) -> bool:
        """Enqueue the configuration that successive halving promotes.

        Returns:
            Whether a promoted trial is the next in the queue.
        """
        if waiting := [t for t in self._history.live if t.state is TrialState.WAITING]:
            return PROMOTED_FROM in waiting[0].user_attrs
        if self.spec.halving is None:
            return False
        origin = self.spec.halving.select_promotable(self._history.trials, self.spec.objectives)
        if origin is None:
            return False
        attributes = {PROMOTED_FROM: origin.number, RUNG: origin.user_attrs.get(RUNG, 0) + 1}
        if SEED_TRIAL in origin.user_attrs:
            attributes[SEED_TRIAL] = origin.user_attrs[SEED_TRIAL]
        self._study.enqueue_trial(origin.params, user_attrs=attributes)
        self.read_history()
        return True

    def _suggest(self, trial: Trial) -> None:
        """Give a trial its parameters; those that it has already stay."""
        seed_trial = self._find_seed_trial(trial)
        if seed_trial is None:
            self.space.propose(trial)
            return
        for parameter in self.space.parameters:
            if parameter.name in seed_trial.params:
                parameter.suggest(trial)
        if VARIANT in seed_trial.params:
            trial.suggest_categorical(VARIANT, self.space.labels)

    def _make_proposal(self, trial: Trial) -> Proposal:
        if seed_trial := self._find_seed_trial(trial):
            return Proposal(trial, seed_trial.config, seed_trial.varied)
        variant, values = self.space.propose(trial)
        varied = [variant.label] if variant.label else []
        varied += [f"{'.'.join(path)}={format_value(value)}" for path, value in values.items()]
        return Proposal(trial, variant.set_values(values), varied)

    def _find_seed_trial(self, trial: Trial | FrozenTrial) -> SeedTrial | None:
        name = trial.user_attrs.get(SEED_TRIAL)
        if name is None:
            return None
        return next((s for s in self.spec.make_seed_trials(self.space) if s.name == name), None)

    def config_of(self, trial: FrozenTrial) -> DictConfig:
        """Return the config of a trial that has ended."""
        if seed_trial := self._find_seed_trial(trial):
            return seed_trial.config
        variant, values = self.space.propose(FixedTrial(trial.params))
        return variant.set_values(values)

    def compute_importance(self) -> dict[str, dict[str, float]]:
        """Compute how much each parameter matters; see `lightexp.search.importance`.

        Under successive halving each configuration counts once, with its values on the first rung.
        """
        return compute_importance(self._study, self.spec.objectives)

    def finish(self, proposal: Proposal, record: Record) -> None:
        """Store the metrics of a trial's run, or why it failed."""
        values, reason = None, record.reason
        if record.status == "done":
            try:
                values = read_values(self.spec.objectives, record.metrics, record.notes)
            except RunFailed as error:
                reason = str(error)
        number, primary = proposal.trial.number, self.spec.settings.task.primary
        outcome = build_outcome(record, reason, proposal.varied, self.get_trial_folder(number), primary)
        violations: dict[str, float] = {}
        if values is not None:
            for constraint in self.spec.constraints:
                violations[constraint.text] = constraint.compute_violation(record.metrics, outcome.control)
        self._tell(number, values, outcome, violations=violations)

    def fail(self, number: int, reason: str) -> None:
        """Store that a trial has failed, and why."""
        self._tell(number, None, TrialOutcome(reason=reason))

    def prune(self, proposal: Proposal, epoch: int) -> None:
        """Store that a pruner has stopped a trial's training after an epoch."""
        outcome = TrialOutcome(reason=f"pruned after epoch {epoch}", varied=proposal.varied, stopped=epoch)
        self._tell(proposal.trial.number, None, outcome, TrialState.PRUNED)

    def get_trial_folder(self, number: int) -> Path:
        """Return the folder of a trial's record."""
        return self.folder / "trials" / f"{number:04d}"

    def _tell(
        self,
        number: int,
        values: list[float] | None,
        outcome: TrialOutcome,
        state_without_values: TrialState = TrialState.FAIL,
        violations: Mapping[str, float] | None = None,
    ) -> None:
        state = state_without_values if values is None else TrialState.COMPLETE
        self._study.sampler = RandomSampler()  # Optuna's grid sampler stops `Study.optimize`, which does not run here
        try:
            trial_id = self._find_trial_id(number)
            with self._view.collect_changes(trial_id):
                trial = Trial(self._study, trial_id)
                for text, violation in (violations or {}).items():
                    trial.set_constraint(text, violation)
                for name, value in list_attributes(outcome, violations or {}).items():
                    trial.set_user_attr(name, value)
                self._study.tell(trial, values, state=state)
        except (UpdateFinishedTrialError, ValueError):
            # Another process may have taken the trial for orphaned and finished it first; it counts once.
            if not self.trials[number].state.is_finished():
                raise
        self._locks.release(number)
