"""Parameter importance: how much each searched setting matters for good values of each objective."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import optuna
from optuna.trial import FrozenTrial, TrialState

from lightexp.search.goals import SearchObjective

_MIN_TRIALS = 10  # PED-ANOVA compares the best tenth of all trials


def compute_importance(study: optuna.Study, objectives: Sequence[SearchObjective]) -> dict[str, dict[str, float]]:
    """Compute the parameters' importance (PED-ANOVA, Watanabe et al. 2023, arXiv 2304.10255).

    Only parameters that apply to every trial are compared.

    Args:
        study: Optuna's study.
        objectives: The study's objectives.

    Returns:
        For each objective, the importance of each parameter; they sum to 1. Empty for less than ten complete trials.
    """
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if len(complete) < _MIN_TRIALS:
        return {}
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # imports scikit-learn: 1 s

    importance = {}
    for index, objective in enumerate(objectives):
        # Optuna raises where the values or the parameters do not vary.
        with suppress(ValueError, RuntimeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = PedAnovaImportanceEvaluator()
            target = partial(_read_minimized_value, index, objective.direction == "max")
            importance[objective.name] = get_param_importances(study, evaluator=evaluator, target=target)
    return importance


def _read_minimized_value(index: int, is_maximized: bool, trial: FrozenTrial) -> float:
    """Return a trial's value of one objective, with the sign with which smaller is better."""
    value = float(trial.values[index])
    return -value if is_maximized else value
