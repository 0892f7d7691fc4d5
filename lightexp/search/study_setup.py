"""Set up a study in its storage: a new one gets its seed trials, an existing one is compared with the command."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from lightexp.core.errors import BadInput
from lightexp.search.space import SearchSpace
from lightexp.search.stored_spec import ARGUMENTS
from lightexp.search.study_identity import StudyIdentity
from lightexp.search.study_spec import StudySpec

STUDY_ID, IDENTITY = "id", "identity"
"""Names of the study attributes that hold its random name and its identity."""
SEED_TRIAL = "corner"
"""Name of the trial attribute that holds the seed trial's name."""


def set_up_study(
    study: optuna.Study, spec: StudySpec, space: SearchSpace, identity: StudyIdentity, trials: Sequence[FrozenTrial]
) -> None:
    """Fill a new study, or check that an existing one was made with the same settings.

    Args:
        study: The study.
        spec: Its specification.
        space: Its space.
        identity: What an existing study must have been made with.
        trials: All of its trials.

    Raises:
        BadInput: If it was made with other settings, or has trials and is not to be resumed.
    """
    _name_values(study, spec)
    stored = study.user_attrs.get(IDENTITY)
    if stored is None:
        enqueued = {t.user_attrs.get(SEED_TRIAL) for t in trials}  # by a process that died meanwhile
        for seed_trial in spec.make_seed_trials(space):
            if seed_trial.name not in enqueued:
                study.enqueue_trial(seed_trial.params, user_attrs={SEED_TRIAL: seed_trial.name})
        study.set_user_attr(STUDY_ID, uuid.uuid4().hex)
        study.set_user_attr(ARGUMENTS, spec.arguments)
        study.set_user_attr(IDENTITY, identity.values)
        return
    started = [t for t in trials if t.state is not TrialState.WAITING]
    if started and not spec.search.resume:
        raise BadInput(
            f"search.study: '{spec.name}' exists already, with {len(started)} trials. "
            "Leave out search.resume=false to continue it, or choose another name."
        )
    if difference := identity.find_difference(stored):
        name, before, now = difference
        raise BadInput(
            f"search.study: '{spec.name}' was made with {name}={before}. This command's is {now}. "
            "Repeat the settings of the study's command, or choose another name: search.study=NAME."
        )


def _name_values(study: optuna.Study, spec: StudySpec) -> None:
    """Tell Optuna's dashboard and plots what the values are."""
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([objective.name for objective in spec.objectives])
