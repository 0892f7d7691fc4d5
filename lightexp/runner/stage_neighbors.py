"""Which stages may come before and after a stage, by the rule that orders pipelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightexp.core.config import build
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Stage
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.runner.choice_settings import compose_choice
from lightexp.runner.order import OrderViolation, Rule, find_violation
from lightexp.stages.train import Train


@dataclass(frozen=True)
class StageNeighbors:
    """Which stages may be next to a stage, with the settings of their files.

    Attributes:
        before: Names of stages that may come directly before it, behind a training.
        after: Names of stages that may come directly after it.
        refused_before: Why each other stage may not come before it, by name.
        refused_after: Why each other stage may not come after it, by name.
    """

    before: list[str]
    after: list[str]
    refused_before: dict[str, str]
    refused_after: dict[str, str]


def load_stages(files: Mapping[str, Path], plugins: Sequence[str] = ()) -> dict[str, Stage]:
    """Build stages with the settings of their files.

    Args:
        files: The stages' files by name. Those of plugins that are not allowed are left out.
        plugins: Packages whose classes may be named. Defaults to none.
    """
    stages = {}
    for name, path in files.items():
        try:
            stages[name] = build(compose_choice("stage", path), Stage, name, tuple(plugins))  # type: ignore[type-abstract]
        except BadInput:
            continue
    return stages


def find_neighbors(name: str, stages: Mapping[str, Stage]) -> StageNeighbors:
    """Try every stage directly before and after one, behind a training.

    Args:
        name: The stage's name.
        stages: All stages by name.
    """
    start = Train(objective=CrossEntropy())
    before = {other: _find_reason([start, stages[other], stages[name]], ["", other, name]) for other in stages}
    after = {other: _find_reason([start, stages[name], stages[other]], ["", name, other]) for other in stages}
    return StageNeighbors(
        [other for other, reason in before.items() if not reason],
        [other for other, reason in after.items() if not reason],
        {other: reason for other, reason in before.items() if reason},
        {other: reason for other, reason in after.items() if reason},
    )


def _find_reason(stages: Sequence[Stage], names: Sequence[str]) -> str:
    """Return why stages may not follow each other; empty if they may."""
    violation = find_violation(stages)
    return "" if violation is None else _describe(violation, stages[violation.index], names[violation.index])


def _describe(violation: OrderViolation, stage: Stage, name: str) -> str:
    if violation.rule is Rule.INVARIANT and violation.invariant is not None:
        return f"{name} would undo the {violation.invariant.kind}"
    if violation.rule is Rule.REQUIRED_STAGE and violation.required is not None:
        return f"{name} needs {violation.required.__name__} before it"
    return f"{name} starts from the form {' or '.join(stage.accepts)}"
