"""What a study is after: objectives with directions, and constraints in their measurements' units."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightexp.core.errors import BadInput, RunFailed, suggest_nearest

Direction = Literal["max", "min"]
Metrics = Mapping[str, float]

_UNITS = {
    "bytes": {"b": 1, "byte": 1, "bytes": 1, "kb": 1e3, "kib": 2**10, "mb": 1e6, "mib": 2**20, "gib": 2**30},
    "us": {"us": 1, "µs": 1, "ms": 1e3, "s": 1e6},
    "s": {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600},
    "": {"%": 0.01, "k": 1e3, "m": 1e6},
}
_NUMBER = r"(?P<number>[0-9.]+(?:e[+-]?[0-9]+)?)\s*(?P<unit>[a-zµ%]*)"
_BOUND = re.compile(rf"(?P<control>control\s*(?P<sign>[-+*])?\s*)?(?:{_NUMBER})?", re.IGNORECASE)
_CONSTRAINT = re.compile(r"(?P<name>[\w./@-]+)\s*(?P<sense><=|>=)\s*(?P<bound>.+)")
_FITS = re.compile(r"fits\s*:\s*(?P<board>[\w.-]+)")


@dataclass(frozen=True)
class SearchObjective:
    """A measurement and the direction that is better."""

    name: str
    direction: Direction

    def to_axis(self, value: float, control: float, classes: int) -> tuple[float, float]:
        """A value on the axis that hypervolumes are taken on, to be minimised, and the reference point there.

        Accuracies become errors, against guessing among `classes`; everything else becomes the log2 of its ratio to
        the control's value, against 0.
        """
        if self.name.startswith("accuracy/"):
            return 1 - value, 1 - 1 / classes
        if value > 0 and control > 0:
            ratio = math.log2(value / control)
            return (ratio if self.direction == "min" else -ratio), 0.0
        return (value, control) if self.direction == "min" else (-value, -control)


@dataclass(frozen=True)
class Constraint:
    """An upper or lower bound of a measurement.

    Attributes:
        text: As it was written.
        name: The measurement.
        sense: `<=` or `>=`.
        number: In the measurement's unit.
        relative: None for a bound by itself; else how `number` is put to the control's value, `+`, `-` or `*`.
    """

    text: str
    name: str
    sense: str
    number: float
    relative: str | None

    def compute_violation(self, figures: Metrics, control: Metrics) -> float:
        """How far beyond the bound a value is, as a share of the bound; at most 0 within it, 1 where there is none."""
        if self.name not in figures or (self.relative and self.name not in control):
            return 1.0
        bound = self.number
        if self.relative:
            base = control[self.name]
            bound = base * bound if self.relative == "*" else base + bound * (1 if self.relative == "+" else -1)
        beyond = figures[self.name] - bound if self.sense == "<=" else bound - figures[self.name]
        return float(beyond / (abs(bound) or 1.0))


def parse_objectives(words: list[str], known: Mapping[str, Direction | None]) -> tuple[SearchObjective, ...]:
    """Reads objectives: a measurement's name, after `max` or `min` where its own direction is not meant or it has none.

    Raises:
        BadInput: If one is not measured or has no direction.
    """
    found = []
    for word in words:
        direction, _, name = word.rpartition(" ")
        name = _measured(name, known, "search.objectives")
        if direction.strip() not in ("", "max", "min"):
            raise BadInput(f"search.objectives: '{word}' must be NAME, 'max NAME' or 'min NAME'.")
        if not (chosen := direction.strip() or known[name]):
            raise BadInput(f"search.objectives: {name} has no direction. Write 'max {name}' or 'min {name}'.")
        if name.endswith("/test"):
            raise BadInput(
                f"search.objectives: trials do not look at the test split. Received: {name}. Take {name[:-4]}val"
            )
        found.append(SearchObjective(name, "max" if chosen == "max" else "min"))
    if not found or len({o.name for o in found}) < len(found):
        raise BadInput(f"search.objectives must name at least one measurement, each once. Received: {words}.")
    return tuple(found)


def parse_constraints(words: list[Any], known: Iterable[str]) -> tuple[Constraint, ...]:
    """Reads constraints such as `size/file_bytes <= 64 KiB`, `accuracy/val >= control - 0.01` and `fits: nano33`.

    Raises:
        BadInput: If one cannot be read or is on something that is not measured.
    """
    names = set(known)
    return tuple(_constraint(word, names) for word in words)


def _constraint(word: Any, known: set[str]) -> Constraint:
    text = ", ".join(f"{k}: {v}" for k, v in word.items()) if isinstance(word, Mapping) else str(word)
    where = f"search.constraints: '{text}'"
    if fits := _FITS.fullmatch(text.strip()):
        return Constraint(text, _measured(f"fits/{fits['board']}", known, where), ">=", 1.0, None)
    if not (read := _CONSTRAINT.fullmatch(text.strip())):
        raise BadInput(f"{where} must be like 'size/file_bytes <= 64 KiB' or 'accuracy/val >= control - 0.01'.")
    name = _measured(read["name"], known, where)
    if name.endswith("/test"):
        raise BadInput(f"{where}: trials do not look at the test split. Take {name[:-4]}val")
    bound = _BOUND.fullmatch(read["bound"].strip())
    if (
        not bound
        or not (bound["number"] or bound["control"])
        or bool(bound["number"]) == bool(bound["control"] and not bound["sign"])
    ):
        raise BadInput(f"{where}: '{read['bound']}' is no bound. Write a number with its unit, or control - NUMBER.")
    relative = (bound["sign"] or "+") if bound["control"] else None
    number = _number(bound["number"] or "0", bound["unit"] or "", name, relative, where)
    return Constraint(text, name, read["sense"], number, relative)


def _number(digits: str, unit: str, name: str, relative: str | None, where: str) -> float:
    kind = next((kind for kind in ("bytes", "us", "s") if name.endswith(f"_{kind}")), "")
    factors = _UNITS["" if relative == "*" else kind]
    try:
        found = float(digits) * (factors[unit.lower()] if unit else 1)
    except KeyError:
        raise BadInput(f"{where}: '{unit}' is not a unit of {name}: {suggest_nearest(unit, factors)}") from None
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise BadInput(f"{where}: '{digits}' is not a number.")
    return found


def _measured(name: str, known: Iterable[str], where: str) -> str:
    if name not in known:
        raise BadInput(
            f"{where}: {name} is not measured: {suggest_nearest(name, known)} What is measured: the group measure."
        )
    return name


def read_values(objectives: tuple[SearchObjective, ...], figures: Metrics, notes: Mapping[str, str]) -> list[float]:
    """The objectives' values.

    Raises:
        RunFailed: If one is missing or is not a number.
    """
    found = []
    for objective in objectives:
        value = figures.get(objective.name)
        if value is None:
            raise RunFailed(f"{objective.name} was not measured{': ' * bool(notes)}{notes.get(objective.name, '')}")
        if not math.isfinite(value):
            raise RunFailed(f"{objective.name} is {value}.")
        found.append(value)
    return found
