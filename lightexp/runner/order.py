"""The order of a pipeline's stages: the rule that it has to follow, and advice on how to repair it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from lightexp.core.artifact import Form
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.invariants import Invariant
from lightexp.core.protocols import Stage

if TYPE_CHECKING:
    from lightexp.runner.settings import Settings

_MOVES_PER_STAGE = 2  # after so many a repair is taken to go round in circles


class Rule(Enum):
    """What an order can violate."""

    FIRST_STAGE = auto()
    """The first stage starts without a model."""
    FORM = auto()
    """A stage starts from a form that the stage before makes."""
    INVARIANT = auto()
    """A stage destroys nothing that an earlier one has established."""
    REQUIRED_STAGE = auto()
    """A stage comes after the stage whose result it needs."""


@dataclass(frozen=True)
class OrderViolation:
    """The first violation of the order rule in a pipeline.

    Attributes:
        rule: What is violated.
        index: Index of the stage that violates it.
        other: Index of the earlier stage that it has to come before or, for a required stage, of the later stage that
            has to come before it; None where no move helps.
        form: Form that the stage would start from.
        invariant: The destroyed invariant, if any.
        required: Class of the required stage, if any.
    """

    rule: Rule
    index: int
    other: int | None = None
    form: Form = "none"
    invariant: Invariant | None = None
    required: type[Stage] | None = None


def find_violation(stages: Sequence[Stage], waive: Collection[str] = ()) -> OrderViolation | None:
    """Return the first violation of the order rule; None for a valid order.

    Args:
        stages: The stages in order.
        waive: Kinds of invariants that may be destroyed. Defaults to none.
    """
    forms: list[Form] = []
    established: list[tuple[int, Invariant]] = []
    for index, stage in enumerate(stages):
        form = forms[-1] if forms else "none"
        if form not in stage.accepts:
            if not forms:
                return OrderViolation(Rule.FIRST_STAGE, index)
            other = next(i for i, earlier in enumerate(forms) if earlier not in stage.accepts)
            return OrderViolation(Rule.FORM, index, other, form)
        for owner, invariant in established:
            if not stage.preserves(invariant) and invariant.kind not in waive:
                return OrderViolation(Rule.INVARIANT, index, owner, form, invariant)
        for required in stage.inputs().values():
            if isinstance(required, type) and not any(isinstance(earlier, required) for earlier in stages[:index]):
                later = next((i for i in range(index + 1, len(stages)) if isinstance(stages[i], required)), None)
                return OrderViolation(Rule.REQUIRED_STAGE, index, later, form, required=required)
        established += [(index, invariant) for invariant in stage.establishes()]
        forms.append(stage.output_form(form))
    return None


def repair_order(stages: Sequence[Stage], waive: Collection[str] = ()) -> list[int] | None:
    """Return a valid order of the stages, found by moving one stage at a time to where the rule wants it.

    Args:
        stages: The stages in an invalid order.
        waive: Kinds of invariants that may be destroyed. Defaults to none.

    Returns:
        Indices into `stages`; None if no such moves lead to a valid order.
    """
    order = list(range(len(stages)))
    for _ in range(_MOVES_PER_STAGE * len(stages)):
        violation = find_violation([stages[i] for i in order], waive)
        if violation is None:
            return order
        if violation.other is None:
            return None
        earlier, later = sorted((violation.index, violation.other))
        if stages[order[earlier]].implicit:
            return None
        order.insert(earlier, order.pop(later))
    return None


def check_order(settings: Settings) -> None:
    """Check that the stages' forms chain and that no stage destroys the work of an earlier one.

    Raises:
        BadInput: If the order is invalid; the message says how to change it.
    """
    stages = list(settings.stages.values())
    violation = find_violation(stages, settings.waive)
    if violation is not None:
        raise BadInput(f"pipeline.order: {_describe(violation, settings)}")
    kinds = {invariant.kind for stage in stages for invariant in stage.establishes()}
    for kind in settings.waive:
        if kind not in kinds:
            raise BadInput(f"pipeline.waive names '{kind}', which no stage establishes: {suggest_nearest(kind, kinds)}")


def _describe(violation: OrderViolation, settings: Settings) -> str:
    names = list(settings.stages)
    name = names[violation.index]
    if violation.rule is Rule.FIRST_STAGE:
        return (
            f"'{name}' cannot be the first stage, it needs a trained model. "
            f"Received: {names}. Put a train stage before it."
        )
    if violation.rule is Rule.FORM:
        return _describe_form(violation, settings)
    if violation.rule is Rule.REQUIRED_STAGE:
        return _describe_required(violation, settings)
    assert violation.invariant is not None
    assert violation.other is not None
    kind = violation.invariant.kind
    return (
        f"'{name}' after '{names[violation.other]}' would undo its {kind}. "
        f"{_advise(violation, settings)}, or to show the damage, 'pipeline.waive=[{kind}]'."
    )


def _describe_form(violation: OrderViolation, settings: Settings) -> str:
    names, stages = list(settings.stages), list(settings.stages.values())
    name, before = names[violation.index], names[violation.index - 1]
    accepted = " or ".join(stages[violation.index].accepts)
    if settings.stages[before].implicit and violation.form == "quantized":
        return (
            f"'{name}' cannot follow a .tflite that is quantised already. "
            "It can be measured as it is: pipeline=control."
        )
    return (
        f"'{name}' cannot follow '{before}', whose result is of the form {violation.form}; "
        f"it starts from {accepted}. {_advise(violation, settings)}."
    )


def _describe_required(violation: OrderViolation, settings: Settings) -> str:
    names = list(settings.stages)
    name = names[violation.index]
    assert violation.required is not None
    method = violation.required.__module__.rpartition(".")[2]
    if violation.other is None:
        addition, required = f"+stage@pipeline.stages.{method}={method} ", method
    else:
        addition, required = "", names[violation.other]
    rest = [n for n in names if n != required]
    rest.insert(rest.index(name), required)
    order = _find_valid_names(settings) if violation.other is not None else None
    return (
        f"'{name}' takes what it does to each layer from a {method} stage, and none comes before it. "
        f"Received: {names}. Put one there: {addition}'{_write_order(order or rest, settings)}'."
    )


def _advise(violation: OrderViolation, settings: Settings) -> str:
    names = list(settings.stages)
    assert violation.other is not None
    if order := _find_valid_names(settings):
        return f"Put it earlier: '{_write_order(order, settings)}'"
    return f"Leave out '{names[violation.other]}' or '{names[violation.index]}'"


def _find_valid_names(settings: Settings) -> list[str] | None:
    names = list(settings.stages)
    order = repair_order(list(settings.stages.values()), settings.waive)
    return None if order is None else [names[i] for i in order]


def _write_order(names: Sequence[str], settings: Settings) -> str:
    """Return the override of `pipeline.order` for an order of stages.

    Names of the config's order that are not stages of the run, such as a training that a model's file replaces, stay at
    the front; a stage that the model adds is not named.
    """
    others = [name for name in settings.plain["pipeline"]["order"] if name not in names]
    named = [name for name in names if name not in settings.stages or not settings.stages[name].implicit]
    return f"pipeline.order=[{','.join([*others, *named])}]"
