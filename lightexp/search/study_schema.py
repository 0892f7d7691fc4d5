"""Check what a study's storage holds, which other software or a stranger may have written."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, NotRequired

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from lightexp.core.errors import BadInput
from lightexp.core.record_schema import PrimaryMetricFile
from lightexp.search.outcome import OUTCOME, upgrade_outcome

_OPEN = ConfigDict(extra="allow", strict=True)
_MAX_QUOTED = 60  # characters of a wrong value
_MAX_VALUE = 1e300  # larger ones overflow in sums
_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


@with_config(ConfigDict(extra="forbid", strict=True))
class _Outcome(TypedDict):
    """`lightexp.search.outcome.TrialOutcome` with the names of its present version."""

    metrics: NotRequired[dict[str, _Number]]
    control: NotRequired[dict[str, _Number]]
    reason: NotRequired[str | None]
    varied: NotRequired[list[str]]
    host: NotRequired[str]
    folder: NotRequired[str]
    classes: NotRequired[Annotated[int, Field(ge=0, lt=2**31)]]
    primary: NotRequired[PrimaryMetricFile | None]
    stopped: NotRequired[_Count | None]
    chance: NotRequired[str | None]


@with_config(_OPEN)
class _TrialAttributes(TypedDict):
    outcome: NotRequired[_Outcome]
    rung: NotRequired[_Count]
    of: NotRequired[_Count]
    corner: NotRequired[str]
    starts: NotRequired[_Count]


@with_config(ConfigDict(extra="forbid", strict=True))
class _Arguments(TypedDict):
    """`lightexp.search.study_spec.StudySpec.arguments`."""

    overrides: list[str]
    config_dirs: list[str]
    config_name: str
    search: dict[str, Any] | None


@with_config(_OPEN)
class _StudyAttributes(TypedDict):
    arguments: NotRequired[_Arguments]
    id: NotRequired[str]
    identity: NotRequired[dict[str, str]]


@cache
def _get_adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def check_study(study: optuna.Study) -> None:
    """Check the attributes and values of a study and of its trials.

    Raises:
        BadInput: For the first wrong one, with its place.
    """
    _check(_StudyAttributes, study.user_attrs, study.study_name, "")
    for trial in study.get_trials(deepcopy=False):
        attributes = dict(trial.user_attrs)
        if isinstance(attributes.get(OUTCOME), dict):
            attributes[OUTCOME] = upgrade_outcome(attributes[OUTCOME])
        place = f"trial {trial.number}: "
        _check(_TrialAttributes, attributes, study.study_name, place)
        _check_values(study, trial)


def _check_values(study: optuna.Study, trial: FrozenTrial) -> None:
    """Check a trial's values and constraints, which Optuna takes from the storage as they are."""
    values, constraints = trial.values or [], _read_constraints(trial)
    is_complete = trial.state is TrialState.COMPLETE
    is_wrong = constraints is None or not all(map(_is_finite, [*values, *constraints]))
    if is_wrong or (is_complete and (len(values) != len(study.directions) or OUTCOME not in trial.user_attrs)):
        problem = f"trial {trial.number}: values {values!r:.{_MAX_QUOTED}}, constraints {constraints!r:.{_MAX_QUOTED}}"
        raise _make_error(study.study_name, problem)


def _read_constraints(trial: FrozenTrial) -> list[Any] | None:
    try:
        return list(trial.constraints.values())
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < _MAX_VALUE


def _check(schema: Any, values: object, study: str, place: str) -> None:
    try:
        _get_adapter(schema).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        problem = f"{place}{name:.100}: {first['msg']}. Received: {first['input']!r:.{_MAX_QUOTED}}"
        raise _make_error(study, problem) from None


def _make_error(study: str, problem: str) -> BadInput:
    return BadInput(
        f"search.study: '{study}' holds what lightexp did not write: {problem}. Choose another name: search.study=NAME."
    )
