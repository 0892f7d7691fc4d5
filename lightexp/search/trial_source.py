"""The trials of a study as a source of work for worker processes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.trial import TrialState

from lightexp.core.record import Record
from lightexp.execution.locks import CommandLease, StoreLeases
from lightexp.execution.postgres_locks import PostgresLocks
from lightexp.execution.work import ClaimedTask, WorkSource, WorkStatus
from lightexp.runner.progress import ProgressReporter, SilentReporter
from lightexp.runner.run import Runner
from lightexp.runner.settings import Settings
from lightexp.search.proposal import Proposal
from lightexp.search.pruners import EpochReporter
from lightexp.search.study import STARTS, SearchStudy
from lightexp.search.study_spec import StudySpec
from lightexp.search.trial_history import TrialHistory
from lightexp.stages.train import TrainingStage

TIME_IS_OVER = "The time is over; the running trials are being finished."


class TrialReporter(ProgressReporter):
    """Reports a trial's progress, and its epochs to Optuna.

    Attributes:
        epochs: Reports the epochs of the current trial; None if the study prunes no trial.
    """

    epochs: EpochReporter | None = None


class SilentTrialReporter(SilentReporter, TrialReporter):
    """Reports nothing."""


@dataclass(frozen=True)
class TrialOrder:
    """What another process needs to work on a study.

    Attributes:
        spec: Arguments of `StudySpec`.
        layers: The layers' names, as `StudySpec.make_space` takes them.
        command: The command line, for the trials' records.
    """

    spec: dict[str, Any]
    layers: Mapping[str, list[str]]
    command: list[str]


@dataclass(frozen=True)
class _TrialResult:
    proposal: Proposal
    record: Record
    stopped_epoch: int | None


class TrialSource(WorkSource):
    """Hands out the trials of a study. Their state and their locks are in the study's storage."""

    noun = "trials"

    def __init__(self, study: SearchStudy, command: list[str], reporter: TrialReporter | None = None) -> None:
        """Claim nothing yet.

        Args:
            study: The study.
            command: The command line, for the trials' records.
            reporter: Shows the progress of a trial. Defaults to nothing.
        """
        self.study = study
        self._command, self._reporter = command, reporter or SilentTrialReporter()
        self._started_at = time.monotonic()

    @classmethod
    def open(cls, order: TrialOrder, reporter: TrialReporter) -> TrialSource:
        """Open the study of another process, which may work in another folder."""
        spec = StudySpec(**order.spec)
        study = SearchStudy(spec, spec.make_space(order.layers), spec.folder, reporter.say)
        return cls(study, order.command, reporter)

    def make_order(self, layers: Mapping[str, list[str]]) -> TrialOrder:
        """Return what another process needs to open this source.

        Args:
            layers: The layers' names, as `StudySpec.make_space` takes them.
        """
        return TrialOrder(self.study.spec.arguments, dict(layers), self._command)

    def make_lease(self, key: int | None = None) -> CommandLease:
        """Return a lease in the study's storage, which every host that works on it sees."""
        return CommandLease(self.study.locks, key)

    @cached_property
    def _runner(self) -> Runner:
        locks = self.study.locks  # those of a journal are seen by the hosts alone that share its folder
        return Runner(self._reporter, leases=StoreLeases(locks) if isinstance(locks, PostgresLocks) else None)

    def claim(self) -> ClaimedTask | None:
        """See `WorkSource.claim`: an orphaned trial, a seed trial, a new or a promoted one."""
        proposal = self.study.ask()
        if proposal is None:
            return None
        number = proposal.trial.number
        return ClaimedTask(str(number), f"trial {number}", lambda: self._run(proposal))

    def finish(self, task: ClaimedTask, result: _TrialResult) -> dict[str, Any]:
        """See `WorkSource.finish`."""
        if result.stopped_epoch:
            self.study.prune(result.proposal, result.stopped_epoch)
        else:
            self.study.finish(result.proposal, result.record)
        return {}

    def fail(self, task_id: str, reason: str) -> None:
        """See `WorkSource.fail`."""
        self.study.fail(int(task_id), reason)

    def abandon(self, task_id: str, cause: str) -> str | None:
        """Leave the trial to the worker that claims it next: its lock has died with its worker."""
        return None

    def give_back(self, task_id: str) -> None:
        """See `WorkSource.give_back`."""
        self.study.requeue(int(task_id))

    def status(self) -> WorkStatus:
        """See `WorkSource.status`."""
        history = self.study.read_history()
        running = [trial for trial in history.live if trial.state is TrialState.RUNNING]
        ended = len(history.trials) - len(history.live)
        may_promote = self.study.spec.halving is not None and bool(running)
        return WorkStatus(
            unclaimed=max(0, self.study.spec.search.trials - history.started),
            running=len(running),
            ended=ended,
            may_grow=may_promote,
            progress=(ended, [(trial.number, trial.state, trial.user_attrs.get(STARTS)) for trial in history.live]),
            stop_reason=self._find_stop_reason(history),
        )

    def has_orphans(self) -> bool:
        """See `WorkSource.has_orphans`."""
        return self.study.has_orphans()

    def requeue(self) -> None:
        """See `WorkSource.requeue`."""
        self.study.requeue_interrupted()

    def _find_stop_reason(self, history: TrialHistory) -> str | None:
        search = self.study.spec.search
        if search.timeout and time.monotonic() - self._started_at > search.timeout:
            return TIME_IS_OVER
        if history.has_too_many_failures:
            return f"More than {search.max_failures} trials in a row have failed (search.max_failures)."
        return None

    def _run(self, proposal: Proposal) -> _TrialResult:
        spec = self.study.spec
        settings = spec.make_trial_settings(proposal.config, proposal.rung)
        self._reporter.epochs = self._make_epoch_reporter(settings, proposal) if spec.search.pruner else None
        names = frozenset([o.name for o in spec.objectives] + [c.name for c in spec.constraints])
        folder = self.study.get_trial_folder(proposal.trial.number)
        record = self._runner.trial(settings, proposal.varied, folder, self._command, requested=names)
        return _TrialResult(proposal, record, self._reporter.epochs.stopped if self._reporter.epochs else None)

    def _make_epoch_reporter(self, settings: Settings, proposal: Proposal) -> EpochReporter:
        name, metric = settings.fidelity, settings.task.primary
        stage = settings.stages[name] if name else None
        if not isinstance(stage, TrainingStage):
            return EpochReporter(proposal.trial, name, 0, metric)
        examples = len(self._runner.plan(settings)[1].train)
        return EpochReporter(proposal.trial, name, stage.schedule_epochs(examples), metric)
