"""Row planners: a node of an ablation's file that expands to several rows, such as a grid or a power set."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, fields, replace
from typing import Annotated, Any

from pydantic import Field

from lightexp.ablation.override_values import format_override_value
from lightexp.ablation.rows import AblationRow, BaseOverrides
from lightexp.core.config import construct, settings_dataclass
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.training import Training
from lightexp.stages.train import TrainingStage

_MIN_POINTS = 5
Values = Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]
Parts = Annotated[list[str], Field(min_length=1)] | Annotated[dict[str, list[str]], Field(min_length=1)]


@settings_dataclass
class RowPlanner:
    """A node that expands to several rows: exactly one of these fields, and `base`.

    Attributes:
        base: Overrides that its rows share. Defaults to none.
        grid: Every combination of some settings' values.
        zip: The first values of some settings, then their second ones, and so on.
        operating_points: One setting with at least five values.
        leave_one_out: All of some stages of the pipeline, then all but each of them. Given as a mapping of names to
            overrides, a part is included if its overrides are.
        add_one_in: None of some stages, then each alone; a list or a mapping, as above.
        power_set: Every subset of some stages, the empty one first; a list or a mapping, as above.
        orders: Some stages of the pipeline in every order; an order that is refused is a row with the reason.
        equal_budget: The name of a row. The new row is that row's control, trained further for as many epochs as its
            stages train, without compression and on the labels; encoded if that row is.
    """

    base: list[str] = field(default_factory=list)
    grid: Values | None = None
    zip: Values | None = None
    operating_points: Values | None = None
    leave_one_out: Parts | None = None
    add_one_in: Parts | None = None
    power_set: Parts | None = None
    orders: Annotated[list[str], Field(min_length=2)] | None = None
    equal_budget: str | None = None

    @property
    def kind(self) -> str:
        """The name of the field that is set."""
        return next(f.name for f in fields(self) if f.name != "base" and getattr(self, f.name) is not None)

    def __post_init__(self) -> None:
        kinds = [f.name for f in fields(self) if f.name != "base"]
        received = [name for name in kinds if getattr(self, name) is not None]
        if len(received) != 1:
            raise ValueError(f"must have exactly one of {', '.join(kinds)}. Received: {received}.")
        if self.operating_points is not None:
            counts = [len(values) for values in self.operating_points.values()]
            if len(counts) != 1 or counts[0] < _MIN_POINTS:
                raise ValueError(
                    f"operating_points takes one field with at least {_MIN_POINTS} values. Received: {counts}."
                )
        if self.zip is not None and len({len(values) for values in self.zip.values()}) > 1:
            lengths = {name: len(values) for name, values in self.zip.items()}
            raise ValueError(f"zip takes lists of one length. Received: {lengths}.")


def expand_rows(nodes: Mapping[str, Any], base: Sequence[str]) -> tuple[AblationRow, ...]:
    """Return the rows that a file's `rows` describe, composed and checked as far as that is possible without data.

    A planner's row that is the same as an earlier row is left out.

    Args:
        nodes: By name, a list of overrides or a planner's mapping.
        base: Overrides that all rows share; they come first.

    Raises:
        BadInput: For a row that cannot be composed, overrides nothing, or is the same as another one.
    """
    rows: dict[str, AblationRow] = {}
    shared = BaseOverrides(base)
    for key, node in nodes.items():
        name, where = str(key), f"rows.{key}"
        if isinstance(node, Mapping):
            planner = construct(RowPlanner, {str(k): v for k, v in node.items()}, where)
            new_rows = _plan_rows(name, planner, shared, rows, f"{where}.{planner.kind}")
        else:
            new_rows = iter([shared.make_row(name, _check_overrides(node, where), where)])
        for row in new_rows:
            twin = next((other for other in rows.values() if other.identity == row.identity), None)
            if row.name in rows:
                raise BadInput(f"{where}: another row is named '{row.name}' already. Give this one another name.")
            if twin is None:
                rows[row.name] = row
            elif not isinstance(node, Mapping):
                raise BadInput(f"{where} is the same as '{twin.name}'. Leave one of them out.")
    shared.check_used()
    return tuple(rows.values())


def enumerate_subsets(kind: str, parts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the subsets of some parts that a planner includes.

    Args:
        kind: `leave_one_out`, `add_one_in` or `power_set`; see `RowPlanner`.
        parts: Their names.

    Example:
        >>> list(enumerate_subsets("leave_one_out", ["prune", "quantize"]))
        [('prune', 'quantize'), ('quantize',), ('prune',)]
    """
    if kind == "leave_one_out":
        yield tuple(parts)
        yield from (tuple(part for part in parts if part != omitted) for omitted in parts)
    elif kind == "add_one_in":
        yield ()
        yield from ((part,) for part in parts)
    else:
        for size in range(len(parts) + 1):
            yield from itertools.combinations(parts, size)


def _check_overrides(node: Any, where: str) -> list[str]:
    if not isinstance(node, list) or not all(isinstance(item, str) for item in node):
        raise BadInput(f"{where} must be a list of overrides or a planner's mapping. Received: {node!r}.")
    if not node:
        raise BadInput(f"{where} overrides nothing. Give it an override such as pipeline=prune, or leave it out.")
    return node


def _plan_rows(
    name: str, planner: RowPlanner, base: BaseOverrides, rows: Mapping[str, AblationRow], where: str
) -> Iterator[AblationRow]:
    kind = planner.kind
    if kind in ("grid", "zip", "operating_points"):
        yield from _plan_points(name, planner, base, where)
    elif kind == "orders":
        yield from _plan_orders(name, planner, base, where)
    elif kind == "equal_budget":
        yield _plan_equal_budget(name, planner, rows, where)
    else:
        parts = getattr(planner, kind)
        for included in enumerate_subsets(kind, list(parts)):
            label = "+".join(included) or "none"
            yield base.make_row(f"{name} {label}", [*planner.base, *_include_parts(parts, included)], where)


def _plan_points(name: str, planner: RowPlanner, base: BaseOverrides, where: str) -> Iterator[AblationRow]:
    values = getattr(planner, planner.kind)
    points = zip(*values.values(), strict=True) if planner.kind == "zip" else itertools.product(*values.values())
    short_names = _shorten_names(list(values))
    for point in points:
        texts = {key: format_override_value(value) for key, value in zip(values, point, strict=True)}
        label = " ".join(f"{short_names[key]}={text}" for key, text in texts.items())
        overrides = [f"{key}={text}" for key, text in texts.items()]
        yield base.make_row(f"{name} {label}", [*planner.base, *overrides], where)


def _include_parts(parts: list[str] | dict[str, list[str]], included: Sequence[str]) -> list[str]:
    """Return the overrides of included parts or, if the parts are stages, those that remove the others."""
    if isinstance(parts, dict):
        return [override for part in included for override in parts[part]]
    return [f"~stage@pipeline.stages.{part}" for part in parts if part not in included]


def _plan_orders(name: str, planner: RowPlanner, base: BaseOverrides, where: str) -> Iterator[AblationRow]:
    stages = planner.orders or []
    order: list[str] = base.make_row(name, planner.base, where, refusable=True).settings.plain["pipeline"]["order"]
    for stage in stages:
        if stage not in order or stages.count(stage) > 1:
            raise BadInput(
                f"{where} names '{stage}', but the pipeline's order is {order}: {suggest_nearest(stage, order)}"
            )
    positions = sorted(order.index(stage) for stage in stages)
    for permutation in itertools.permutations(stages):
        new_order = list(order)
        for position, stage in zip(positions, permutation, strict=True):
            new_order[position] = stage
        overrides = [*planner.base, f"pipeline.order=[{','.join(new_order)}]"]
        yield base.make_row(f"{name} {'>'.join(permutation)}", overrides, where, refusable=True)


def _plan_equal_budget(name: str, planner: RowPlanner, rows: Mapping[str, AblationRow], where: str) -> AblationRow:
    """Make a row that trains as another one does, without its compression."""
    compared_name = str(planner.equal_budget)
    if compared_name not in rows:
        raise BadInput(f"{where}: no row above is named '{compared_name}': {suggest_nearest(compared_name, rows)}")
    compared = rows[compared_name]
    stages = {n: stage for n, stage in compared.settings.stages.items() if isinstance(stage, TrainingStage)}
    first = next((i for i, stage in enumerate(stages.values()) if stage.compresses), len(stages))
    if first == len(stages):
        raise BadInput(f"{where}: no stage of '{compared_name}' trains after its control. Name a row that fine-tunes.")
    new_names = {n: n if i < first else f"as_{n}" for i, n in enumerate(stages)}
    encoders = [n for n, stage in compared.settings.stages.items() if stage.produces == "encoded"]
    overrides = ["pipeline=control", f"pipeline.order=[{','.join([*new_names.values(), *encoders])}]"]
    overrides += [f"+stage@pipeline.stages.{n}=encode" for n in encoders]
    for n, stage in stages.items():
        overrides += _copy_training(new_names[n], stage)
    inherited = [text for text in compared.overrides if "pipeline" not in text.partition("=")[0]]
    row = BaseOverrides(inherited).make_row(name, [*planner.base, *overrides], where)
    return replace(row, label=f"as long as {compared_name}")


def _copy_training(name: str, stage: TrainingStage) -> list[str]:
    """Return the overrides of a stage that trains as another one does, on the labels."""
    overrides = [] if name == "train" else [f"+stage@pipeline.stages.{name}=train"]
    default = Training(objective=stage.objective)
    for setting in fields(Training):
        value = getattr(stage, setting.name)
        if setting.name != "objective" and value != getattr(default, setting.name):
            overrides.append(f"pipeline.stages.{name}.{setting.name}={format_override_value(value)}")
    return overrides


def _shorten_names(names: list[str]) -> dict[str, str]:
    """Return each dotted name's shortest end that no other name has."""
    ends = {name: name for name in names}
    for length in range(1, max(name.count(".") + 2 for name in names)):
        ends = {name: ".".join(name.split(".")[-length:]) for name in names}
        if len(set(ends.values())) == len(names):
            break
    return ends
