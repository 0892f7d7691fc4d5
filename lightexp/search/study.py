"""The ask/tell core: which configuration is tried next, and what became of each."""

from __future__ import annotations

import math
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import optuna
from omegaconf import DictConfig
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler, GridSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState

from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.record import Record
from lightexp.execution.locks import Locks
from lightexp.runner.execute import STOPPED_FACT
from lightexp.search import pruners, samplers, storage
from lightexp.search.goals import read_values
from lightexp.search.outcome import OUTCOME, PROMOTED_FROM, RUNG, TrialOutcome
from lightexp.search.ranges import format_value
from lightexp.search.seed_trials import SeedTrial
from lightexp.search.space import VARIANT, SearchSpace
from lightexp.search.study_spec import StudySpec

STUDY_ID, IDENTITY, SEED_TRIAL, STARTS = "id", "identity", "corner", "starts"
_STARTS = 3
"""How often a trial is taken up before it has failed; what dies each time is no accident."""
_SHUTDOWN_GRACE_S = 5.0  # after this, running trials belong to another host
_TO_TELL = 10  # trials that are done: a tenth of them is one


@dataclass(frozen=True)
class Proposal:
    """A trial that this process is to run.

    Attributes:
        trial: Optuna's.
        config: What to run.
        varied: What the study has set, as overrides.
    """

    trial: Trial
    config: DictConfig
    varied: list[str]

    @property
    def rung(self) -> int:
        """How far it goes, under successive halving."""
        return int(self.trial.user_attrs.get(RUNG, 0))


class SearchStudy:
    """A study on its storage, shared by every process that works on it."""

    def __init__(
        self,
        spec: StudySpec,
        space: SearchSpace,
        folder: Path,
        say: Callable[[str], None],
        identity: dict[str, str] | None = None,
    ) -> None:
        """Opens the study, or makes it with its corners enqueued.

        Args:
            spec: What is wanted.
            space: What is searched.
            folder: Where the study's files are.
            say: Takes each line for the user.
            identity: What the study must have been made with; None where that has been checked.

        Raises:
            BadInput: If the storage cannot be used, or the study that is there is another.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.spec, self.space, self.folder = spec, space, folder
        self._rows: samplers.RowCache = {}
        self._storage, self._locks = storage.open_storage(spec.search.storage, folder, spec.name, say)
        ways = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        directions = [ways[o.direction] for o in spec.objectives]
        with self._locks.exclusive():
            optuna.create_study(storage=self._storage, study_name=spec.name, directions=directions, load_if_exists=True)
            pruner = pruners.make_pruner(spec.search.pruner, spec.objectives)
            self._study = samplers.FirstRungStudy(spec.name, self._storage, pruner=pruner)
            self._study_id = self._storage.get_study_id_from_name(spec.name)
            if identity is not None:
                self._check(identity)

    def _check(self, identity: dict[str, str]) -> None:
        made = self._study.user_attrs.get(IDENTITY)
        if made is None:
            for corner in self.spec.make_seed_trials(self.space):
                self._study.enqueue_trial(corner.params, user_attrs={SEED_TRIAL: corner.name})
            self._study.set_user_attr(STUDY_ID, uuid.uuid4().hex)
            self._study.set_user_attr(IDENTITY, identity)
            return
        begun = [t for t in self.trials if t.state is not TrialState.WAITING]
        if not self.spec.search.resume and begun:
            raise BadInput(
                f"search.study: '{self.spec.name}' is there already, with {len(begun)} trials. "
                "Leave out search.resume=false to go on with it, or choose another name."
            )
        for name in sorted(set(made) | set(identity)):
            was, now = made.get(name, "nothing"), identity.get(name, "nothing")
            if was != now:
                raise BadInput(
                    f"search.study: '{self.spec.name}' was made with {name}={was}. Received: {now}. "
                    "Set it back, or choose another name: search.study=NAME."
                )

    @property
    def id(self) -> str:
        """What tells it from another of the same name."""
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
                        if self.trials[trial.number].state is TrialState.RUNNING:
                            self._storage.set_trial_state_values(self._trial_id(trial.number), TrialState.WAITING)
                        self._locks.release(trial.number)
            if time.monotonic() > end or not any(t.state is TrialState.RUNNING for t in self.trials):
                return
            time.sleep(0.2)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, oldest first, including those that `samplers.FirstRungStudy` hides from samplers."""
        return self._storage.get_all_trials(self._study_id, deepcopy=False)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def ask(self) -> Proposal | None:
        """Takes up a trial that was left, else a corner, a new one or one that goes on; None where nothing is left."""
        while True:
            with self._locks.exclusive():
                trial = self._left() or self._next()
            if trial is None:
                return None
            try:
                return self._proposal(trial)
            except BadInput as error:  # of a conditional range, say
                self.fail(trial.number, str(error))

    def _left(self) -> Trial | None:
        """A running trial whose process has died."""
        for frozen in self.trials:
            if frozen.state is not TrialState.RUNNING or not self._locks.acquire(frozen.number):
                continue
            now = self.trials[frozen.number]
            starts = int(now.user_attrs.get(STARTS, 1)) + 1
            if now.state is TrialState.RUNNING and starts <= _STARTS:
                trial = Trial(self._study, self._trial_id(now.number))
                trial.set_user_attr(STARTS, starts)
                return trial
            if now.state is TrialState.RUNNING:
                self._tell(now.number, None, TrialOutcome(reason=f"its process died {_STARTS} times (out of memory?)"))
            self._locks.release(frozen.number)
        return None

    def _next(self) -> Trial | None:
        trials = self.trials
        asked = [t for t in trials if t.state is not TrialState.WAITING]
        if self.too_many_failures(trials):
            return None
        sampler: BaseSampler = RandomSampler()  # is asked nothing for what goes on
        new = sum(PROMOTED_FROM not in t.user_attrs for t in asked) < self.spec.search.trials
        if new:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler = samplers.make_sampler(self.spec, self.space, len(asked), self._rows)
            if isinstance(sampler, GridSampler):
                begun = {t.system_attrs.get("grid_id") for t in asked} - {None}
                new = len(begun) < sampler._n_min_trials  # Optuna would propose what is being tried once more
        if not new and not self._goes_on(trials):
            return None
        self._study.sampler = sampler
        trial = self._study.ask()
        if not {PROMOTED_FROM, SEED_TRIAL} & set(trial.user_attrs):
            self.space.propose(trial)  # in this process's turn: another must not propose the same
        self._locks.acquire(trial.number)
        return trial

    def _goes_on(self, trials: Sequence[FrozenTrial]) -> bool:
        """Enqueues the configuration that successive halving goes on with; whether one is what is asked for next."""
        if waiting := [t for t in trials if t.state is TrialState.WAITING]:
            return PROMOTED_FROM in waiting[0].user_attrs
        found = self.spec.halving and self.spec.halving.select_promotable(trials, self.spec.objectives)
        if not found:
            return False
        kept = {name: found.user_attrs[name] for name in (SEED_TRIAL,) if name in found.user_attrs}
        attrs = {**kept, PROMOTED_FROM: found.number, RUNG: found.user_attrs.get(RUNG, 0) + 1}
        self._study.enqueue_trial(found.params, user_attrs=attrs)
        return True

    @property
    def may_promote(self) -> bool:
        """Whether a trial that runs may let another go on."""
        return self.spec.halving is not None and any(t.state is TrialState.RUNNING for t in self.trials)

    def _proposal(self, trial: Trial) -> Proposal:
        if corner := self._corner(trial):
            for parameter in self.space.parameters:
                if parameter.name in corner.params:
                    parameter.suggest(trial)
            if VARIANT in corner.params:
                trial.suggest_categorical(VARIANT, self.space.labels)
            return Proposal(trial, corner.config, corner.varied)
        structure, chosen = self.space.propose(trial)
        varied = [structure.label] * bool(structure.label) + [
            f"{'.'.join(k)}={format_value(v)}" for k, v in chosen.items()
        ]
        return Proposal(trial, structure.set_values(chosen), varied)

    def _corner(self, trial: Trial | FrozenTrial) -> SeedTrial | None:
        if (name := trial.user_attrs.get(SEED_TRIAL)) is None:
            return None
        return next((c for c in self.spec.make_seed_trials(self.space) if c.name == name), None)

    def config_of(self, trial: FrozenTrial) -> DictConfig:
        """The config of a trial that has ended."""
        if corner := self._corner(trial):
            return corner.config
        structure, chosen = self.space.propose(FixedTrial(trial.params))
        return structure.set_values(chosen)

    def compute_importance(self) -> dict[str, dict[str, float]]:
        """Of each objective, the parameters' importance for good values (PED-ANOVA, arXiv 2304.10255), 0 to 1 in sum.

        Parameters that apply to every trial alone; none where there are too few trials to tell: it compares the best
        tenth with all. Under successive halving each configuration counts once, as the first rung has left it.
        """
        if len(self._study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])) < _TO_TELL:
            return {}
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # brings scikit-learn: 1 s

        found = {}
        for n, objective in enumerate(self.spec.objectives):
            with suppress(ValueError, RuntimeError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                evaluator = PedAnovaImportanceEvaluator()
                target = partial(_lower_is_better, n, -1 if objective.direction == "max" else 1)
                found[objective.name] = get_param_importances(self._study, evaluator=evaluator, target=target)
        return found

    def finish(self, proposal: Proposal, record: Record) -> None:
        """Enters what a trial's run has measured, or why it failed."""
        ends = [{f.name: f.value for f in stage.metrics} for stage in record.stages]
        control = next((e for s, e in zip(record.stages, ends, strict=True) if s.name == record.control), {})
        found: list[float] | None = None
        reason = record.reason
        if record.status == "done":
            try:
                found = read_values(self.spec.objectives, record.metrics, {})
            except RunFailed as error:
                reason = str(error)
        if found is not None:
            for constraint in self.spec.constraints:
                proposal.trial.set_constraint(constraint.text, constraint.compute_violation(record.metrics, control))
        outcome = TrialOutcome(
            {n: v for n, v in record.metrics.items() if math.isfinite(v)},
            control,
            reason,
            proposal.varied,
            folder=str(self.get_trial_folder(proposal.trial.number)),
            classes=record.dataset["classes"],
            stopped=next((stage.facts[STOPPED_FACT] for stage in record.stages if STOPPED_FACT in stage.facts), None),
        )
        self._tell(proposal.trial.number, found, outcome)

    def fail(self, number: int, reason: str) -> None:
        """Enters that a trial has failed."""
        self._tell(number, None, TrialOutcome(reason=reason))

    def prune(self, proposal: Proposal, epoch: int) -> None:
        """Enters that a trial's training was stopped after an epoch."""
        outcome = TrialOutcome(reason=f"pruned after epoch {epoch}", varied=proposal.varied, stopped=epoch)
        self._tell(proposal.trial.number, None, outcome, TrialState.PRUNED)

    def get_trial_folder(self, number: int) -> Path:
        """Where the record of a trial goes."""
        return self.folder / "trials" / f"{number:04d}"

    def too_many_failures(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether the last trials that ended, `search.max_failures` and one more, have all failed."""
        ended = sorted((t for t in trials if t.datetime_complete), key=lambda t: t.datetime_complete or t.number)
        last = ended[-(self.spec.search.max_failures + 1) :]
        return len(last) > self.spec.search.max_failures and all(t.state is TrialState.FAIL for t in last)

    def _tell(
        self, number: int, found: list[float] | None, outcome: TrialOutcome, without: TrialState = TrialState.FAIL
    ) -> None:
        self._study.sampler = RandomSampler()  # a grid's own would stop a loop that is not Optuna's
        try:
            self._storage.set_trial_user_attr(self._trial_id(number), OUTCOME, asdict(outcome))
            self._study.tell(number, found, state=without if found is None else TrialState.COMPLETE)
        except (UpdateFinishedTrialError, ValueError):
            if not self.trials[number].state.is_finished():  # by another, who took it for left: it counts once
                raise
        self._locks.release(number)


def _lower_is_better(objective: int, sign: int, trial: FrozenTrial) -> float:
    return sign * float(trial.values[objective])
