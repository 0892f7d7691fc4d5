"""Rows: lists of overrides, written out or made by a planner."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from pydantic import Field

from lightexp.core.config import construct, settings_dataclass
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.training import Training
from lightexp.runner.compose import compose_config, compose_settings
from lightexp.runner.order import check_order
from lightexp.runner.settings import Settings
from lightexp.stages.train import TrainingStage

_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
_OF_STAGE = re.compile(r"pipeline\.stages\.([^.=]+)\.")
_WORDS = ("null", "true", "false", "nan", "inf")
_POINTS = 5
Values = dict[str, Annotated[list[Any], Field(min_length=1)]]
Parts = Annotated[list[str], Field(min_length=1)] | Annotated[dict[str, list[str]], Field(min_length=1)]


@dataclass(frozen=True)
class AblationRow:
    """A row of the table: one configuration, run once for each seed.

    Attributes:
        name: In the table.
        overrides: All of them, the ablation's `base` included; no seed.
        settings: What they describe, at the default seed.
        refused: Why it cannot run, if it stands in the table for that.
    """

    name: str
    overrides: tuple[str, ...]
    settings: Settings
    refused: str | None = None

    @property
    def identity(self) -> str:
        """Text that is equal for rows whose runs would be the same."""
        one = self.settings
        return repr((one.dataset, one.model, list(one.stages.items()), one.waive))


@settings_dataclass
class RowPlanner:
    """A row's node that stands for several rows: exactly one of these fields, and `base`.

    Attributes:
        base: Overrides that its rows share. Defaults to none.
        grid: Every combination of some fields' values.
        zip: The first values of some fields, then their second ones.
        operating_points: One field over at least five values.
        leave_one_out: All of some stages of the pipeline, then all but each. With a mapping of names to overrides, a
            part is in when its overrides are.
        add_one_in: None of some stages, then each alone. As above.
        power_set: Every subset of some stages, the empty one first. As above.
        orders: Some stages of the pipeline in every order; an order that is refused is a row with the reason.
        equal_budget: A row's name: its control, trained on for as many epochs as that row's stages train, without
            compression and on the labels; encoded if that row is.
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
        """Which of the fields is given."""
        return next(f.name for f in fields(self) if f.name != "base" and getattr(self, f.name) is not None)

    def __post_init__(self) -> None:
        kinds = [f.name for f in fields(self) if f.name != "base"]
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"must have exactly one of {', '.join(kinds)}. Received: {given}.")
        if self.operating_points is not None:
            counts = [len(values) for values in self.operating_points.values()]
            if len(counts) != 1 or counts[0] < _POINTS:
                raise ValueError(
                    f"operating_points takes one field with at least {_POINTS} values. Received: {counts}."
                )
        if self.zip is not None and len({len(values) for values in self.zip.values()}) > 1:
            raise ValueError(f"zip takes lists of one length. Received: { {k: len(v) for k, v in self.zip.items()} }.")


def expand_rows(nodes: Mapping[str, Any], base: Sequence[str]) -> tuple[AblationRow, ...]:
    """The rows that a file's `rows` describe, each composed and checked as far as that goes without data.

    A planner's row that an earlier row already is stands in the table once, by the earlier name.

    Args:
        nodes: By name, a list of overrides or a planner's mapping.
        base: Overrides that come first.

    Raises:
        BadInput: For a row that cannot be composed, overrides nothing, or is another's twin.
    """
    rows: dict[str, AblationRow] = {}
    shared = _Base(base)
    for name, node in nodes.items():
        where = f"rows.{name}"
        if isinstance(node, Mapping):
            planner = construct(RowPlanner, {str(k): v for k, v in node.items()}, where)
            made = _planned(str(name), planner, shared, rows, where)
        elif isinstance(node, list) and all(isinstance(word, str) for word in node):
            if not node:
                raise BadInput(
                    f"{where} overrides nothing. Give it an override such as pipeline=prune, or leave it out."
                )
            made = iter([shared.row(str(name), node, where)])
        else:
            raise BadInput(f"{where} must be a list of overrides or a planner's mapping. Received: {node!r}.")
        for row in made:
            twin = next((other for other in rows.values() if other.identity == row.identity), None)
            if row.name in rows:
                raise BadInput(f"{where}: there is a row named '{row.name}' already. Give it another name.")
            if twin is None:
                rows[row.name] = row
            elif not isinstance(node, Mapping):
                raise BadInput(f"{where} is the same as '{twin.name}'. Leave one of them out.")
    shared.check_used()
    return tuple(rows.values())


class _Base:
    """Overrides that all rows share; a row whose pipeline lacks a stage is spared those of that stage."""

    def __init__(self, overrides: Sequence[str]) -> None:
        self._overrides = list(overrides)
        self._of_stages = {word: found[1] for word in overrides if (found := _OF_STAGE.match(word))}
        self._used: set[str] = set()

    def row(self, name: str, own: Sequence[str], where: str, refusable: bool = False) -> AblationRow:
        try:
            overrides = [*self._fitting(own), *own]
            settings = compose_settings(overrides)
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from None
        try:
            check_order(settings)
        except BadInput as error:
            if not refusable:
                raise BadInput(f"{where}: {error}") from None
            return AblationRow(name, tuple(overrides), settings, str(error))
        return AblationRow(name, tuple(overrides), settings)

    def _fitting(self, own: Sequence[str]) -> list[str]:
        if not self._of_stages:
            return self._overrides
        others = [word for word in self._overrides if word not in self._of_stages]
        there = compose_config([*others, *own]).pipeline.stages
        self._used |= {word for word, stage in self._of_stages.items() if stage in there}
        return [word for word in self._overrides if self._of_stages.get(word) in (None, *there)]

    def check_used(self) -> None:
        """Raises BadInput for an override that no row had a use for."""
        for word, stage in self._of_stages.items():
            if word not in self._used:
                raise BadInput(f"base: {word}: no row's pipeline has a stage '{stage}'. Leave it out.")


def _planned(
    name: str, planner: RowPlanner, base: _Base, rows: Mapping[str, AblationRow], where: str
) -> Iterator[AblationRow]:
    kind = planner.kind
    where = f"{where}.{kind}"
    if kind in ("grid", "zip", "operating_points"):
        values = getattr(planner, kind)
        points = zip(*values.values(), strict=True) if kind == "zip" else itertools.product(*values.values())
        short = _short(list(values))
        for point in points:
            chosen = dict(zip(values, point, strict=True))
            label = " ".join(f"{short[key]}={_written(value)}" for key, value in chosen.items())
            words = [f"{key}={_written(value)}" for key, value in chosen.items()]
            yield base.row(f"{name} {label}", [*planner.base, *words], where)
    elif kind == "orders":
        yield from _orders(name, planner.orders or [], planner.base, base, where)
    elif kind == "equal_budget":
        yield _equal_budget(name, str(planner.equal_budget), planner.base, rows, where)
    else:
        parts = getattr(planner, kind)
        for chosen_parts in _subsets(kind, list(parts)):
            label = "+".join(chosen_parts) or "none"
            yield base.row(f"{name} {label}", [*planner.base, *_with(parts, chosen_parts)], where)


def _subsets(kind: str, parts: list[str]) -> Iterator[tuple[str, ...]]:
    if kind == "leave_one_out":
        yield tuple(parts)
        yield from (tuple(p for p in parts if p != left) for left in parts)
    elif kind == "add_one_in":
        yield ()
        yield from ((part,) for part in parts)
    else:
        for size in range(len(parts) + 1):
            yield from itertools.combinations(parts, size)


def _with(parts: list[str] | dict[str, list[str]], chosen: Sequence[str]) -> list[str]:
    """The overrides of the chosen parts; of stages, those that take the others away."""
    if isinstance(parts, dict):
        return [word for part in chosen for word in parts[part]]
    return [f"~stage@pipeline.stages.{part}" for part in parts if part not in chosen]


def _orders(name: str, stages: list[str], own: list[str], base: _Base, where: str) -> Iterator[AblationRow]:
    order: list[str] = base.row(name, own, where, refusable=True).settings.plain["pipeline"]["order"]
    for stage in stages:
        if stage not in order or stages.count(stage) > 1:
            raise BadInput(
                f"{where} names '{stage}', but the pipeline's order is {order}: {suggest_nearest(stage, order)}"
            )
    places = sorted(order.index(stage) for stage in stages)
    for chosen in itertools.permutations(stages):
        whole = list(order)
        for place, stage in zip(places, chosen, strict=True):
            whole[place] = stage
        yield base.row(
            f"{name} {'>'.join(chosen)}", [*own, f"pipeline.order=[{','.join(whole)}]"], where, refusable=True
        )


def _equal_budget(name: str, of: str, own: list[str], rows: Mapping[str, AblationRow], where: str) -> AblationRow:
    if of not in rows:
        raise BadInput(f"{where}: no row above is named '{of}': {suggest_nearest(of, rows)}")
    compared = rows[of]
    stages = [(n, s) for n, s in compared.settings.stages.items() if isinstance(s, TrainingStage)]
    first = next((i for i, (_, stage) in enumerate(stages) if stage.compresses), len(stages))
    if first == len(stages):
        raise BadInput(f"{where}: no stage of '{of}' trains after its control. Name a row that fine-tunes.")
    kept = [word for word in compared.overrides if "pipeline" not in word.partition("=")[0]]
    names = [n if i < first else f"as_{n}" for i, (n, _) in enumerate(stages)]
    encoded = [n for n, s in compared.settings.stages.items() if s.produces == "encoded"]
    words = ["pipeline=control", f"pipeline.order=[{','.join([*names, *encoded])}]"]
    words += [f"+stage@pipeline.stages.{n}=encode" for n in encoded]
    for new, (_, stage) in zip(names, stages, strict=True):
        if new != "train":
            words.append(f"+stage@pipeline.stages.{new}=train")
        default = Training(objective=stage.objective)
        for each in fields(Training):
            value = getattr(stage, each.name)
            if each.name != "objective" and value != getattr(default, each.name):
                words.append(f"pipeline.stages.{new}.{each.name}={_written(value)}")
    return _Base(kept).row(name, [*own, *words], where)


def _short(names: list[str]) -> dict[str, str]:
    """Each dotted name's shortest end that no other has."""
    for length in range(1, max(name.count(".") + 2 for name in names)):
        ends = {name: ".".join(name.split(".")[-length:]) for name in names}
        if len(set(ends.values())) == len(names):
            break
    return ends


def _written(value: Any) -> str:
    """A value as Hydra's overrides write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(item)}" for key, item in value.items()) + "}"
    if not isinstance(value, str) or (_PLAIN.fullmatch(value) and value.lower() not in _WORDS):
        return str(value)
    # Backslashes count as such only before a quotation mark.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"
