"""The order of stages: violations and their repair."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from lightexp.core.invariants import Invariant, InvariantKind
from lightexp.core.protocols import Artifact, Context, Form, Input, Stage
from lightexp.runner.order import Rule, find_violation, repair_order


@dataclass(frozen=True)
class Step(Stage):
    """A stage that destroys the invariants of stages of a higher rank."""

    accepts: ClassVar[tuple[Form, ...]] = ("keras",)
    rank: int = 0

    def establishes(self) -> tuple[Invariant, ...]:
        return (Invariant("rank", self.rank),)

    def preserves(self, invariant: Invariant) -> bool:
        return invariant.value <= self.rank

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        raise NotImplementedError


@dataclass(frozen=True)
class First(Step):
    """A stage that needs no stage before it."""

    accepts: ClassVar[tuple[Form, ...]] = ("none", "keras")

    def establishes(self) -> tuple[Invariant, ...]:
        return ()


@dataclass(frozen=True)
class Finish(Step):
    """A stage whose result only a `Follower` accepts."""

    produces: ClassVar[Form] = "encoded"


@dataclass(frozen=True)
class Follower(Step):
    """A stage that needs the result of a `Finish` stage."""

    accepts: ClassVar[tuple[Form, ...]] = ("keras", "encoded")

    def inputs(self) -> dict[str, Input]:
        return {"table": Finish}


def repair_ranks(stages: list[Step]) -> list[int]:
    """Return the ranks of stages in the repaired order."""
    order = repair_order(stages)
    assert order is not None
    assert find_violation([stages[i] for i in order]) is None
    return [stages[i].rank for i in order]


@pytest.mark.parametrize(
    ("stages", "rule", "index", "other"),
    [
        ([Step()], Rule.FIRST_STAGE, 0, None),
        ([First(), Finish(), Step()], Rule.FORM, 2, 1),
        ([First(), Step(2), Step(1)], Rule.INVARIANT, 2, 1),
        ([First(), Follower(), Finish()], Rule.REQUIRED_STAGE, 1, 2),
        ([First(), Follower()], Rule.REQUIRED_STAGE, 1, None),
    ],
)
def test_find_violation_names_the_stages(stages: list[Step], rule: Rule, index: int, other: int | None) -> None:
    violation = find_violation(stages)
    assert violation is not None
    assert (violation.rule, violation.index, violation.other) == (rule, index, other)


def test_find_violation_skips_waived_kinds() -> None:
    assert find_violation([First(), Step(2), Step(1)], waive=("rank",)) is None
    assert find_violation([First(), Step(1), Step(2), Finish(3)]) is None


def test_repair_order_moves_one_stage() -> None:
    assert repair_ranks([First(), Step(2), Step(3), Step(1)]) == [0, 1, 2, 3]
    assert repair_ranks([First(), Finish(9), Step(3)]) == [0, 3, 9]


def test_repair_order_gives_up() -> None:
    assert repair_order([Step(), First()]) is None
    assert repair_order([First(), Follower()]) is None


@pytest.mark.parametrize("count", [11, 20])
def test_repair_order_is_fast(count: int) -> None:
    stages = [First(), *(Step(rank) for rank in range(count - 1, 0, -1))]
    before = time.process_time()
    assert repair_ranks(stages) == list(range(count))
    assert time.process_time() - before < 0.1


def test_invariant_kinds_are_the_names_in_records() -> None:
    assert [str(kind) for kind in InvariantKind] == ["sparsity", "n_m", "blocks", "codebook", "grid", "dtype"]
    assert Invariant(InvariantKind.BLOCKS, 0.5) == Invariant("blocks", 0.5)
