"""Search goals: objectives with directions, and constraints with units, parsed from `search.*`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightexp.core.errors import BadInput, RunFailed, suggest_nearest
from lightexp.core.primary_metric import PrimaryMetric
from lightexp.core.units import BYTE_UNITS

Direction = Literal["max", "min"]
Metrics = Mapping[str, float]

_UNITS: dict[str, Mapping[str, float]] = {
    "bytes": BYTE_UNITS,
    "us": {"us": 1, "µs": 1, "ms": 1e3, "s": 1e6},
    "s": {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600},
    "": {"%": 0.01, "k": 1e3, "m": 1e6},
}
"""Factors of the units, by the suffix of the metric's name."""
_NUMBER = r"(?P<number>[0-9.]+(?:e[+-]?[0-9]+)?)\s*(?P<unit>[a-zµ%]*)"
_BOUND = re.compile(rf"(?P<control>control\s*(?P<sign>[-+*])?\s*)?(?:{_NUMBER})?", re.IGNORECASE)
_CONSTRAINT = re.compile(r"(?P<name>[\w./@-]+)\s*(?P<sense><=|>=)\s*(?P<bound>.+)")
FITS = "fits/"
"""Start of the names of metrics that say whether a file fits a board."""
_FITS = re.compile(r"fits\s*:\s*(?P<board>[\w.-]+)")


@dataclass(frozen=True)
class SearchObjective:
    """A metric that a study optimises, and the direction that is better.

    Example:
        >>> from lightexp.core.primary_metric import PrimaryMetric
        >>> SearchObjective("accuracy/val", "max").to_axis(0.75, 0.9, PrimaryMetric(reference=0.25))
        (0.25, 0.75)
        >>> SearchObjective("size/file_bytes", "min").to_axis(25, 100, PrimaryMetric(reference=0.25))
        (-2.0, 0.0)
    """

    name: str
    direction: Direction

    def to_axis(self, value: float, control: float, primary: PrimaryMetric) -> tuple[float, float]:
        """Return a value on the axis that hypervolumes are computed on, and the reference point of that axis.

        The task's primary metric becomes an error, with the error of guessing as the reference. Any other metric
        becomes log2 of its ratio to the control's value, with 0 as the reference. Smaller is better on every axis.

        Args:
            value: The trial's value.
            control: The control's value.
            primary: The task's primary metric.
        """
        if self.is_error_of(primary) and primary.reference_error is not None:
            return primary.to_error(value), primary.reference_error
        if value > 0 and control > 0:
            ratio = math.log2(value / control)
            return (ratio if self.direction == "min" else -ratio), 0.0
        return (value, control) if self.direction == "min" else (-value, -control)

    def is_error_of(self, primary: PrimaryMetric) -> bool:
        """Return whether the axis is the error of the task's primary metric, which guessing bounds."""
        return self.name.startswith(f"{primary.name}/") and primary.reference_error is not None


@dataclass(frozen=True)
class Constraint:
    """An upper or lower bound of a metric.

    Attributes:
        text: The constraint as the user wrote it.
        name: The metric.
        sense: `<=` or `>=`.
        number: The bound, or the operand of `relative`, in the metric's unit.
        relative: The operator that combines the control's value with `number`: `+`, `-` or `*`. None for a bound that
            does not depend on the control.

    Example:
        >>> (constraint,) = parse_constraints(["size/file_bytes <= 64 KiB"], ["size/file_bytes"])
        >>> constraint.compute_violation({"size/file_bytes": 98304}, control={})
        0.5
    """

    text: str
    name: str
    sense: str
    number: float
    relative: str | None

    def compute_violation(self, metrics: Metrics, control: Metrics) -> float:
        """Return how far a value lies beyond the bound, as a fraction of the bound.

        Args:
            metrics: The trial's metrics.
            control: The control's metrics.

        Returns:
            At most 0 where the constraint is satisfied; 1 where a needed metric is missing.
        """
        excess, bound = self.compute_excess(metrics, control), self.find_bound(control)
        return 1.0 if excess is None or bound is None else float(excess / (abs(bound) or 1.0))

    def compute_excess(self, metrics: Metrics, control: Metrics) -> float | None:
        """Return how far a value lies beyond the bound, in the metric's unit; None where a metric is missing."""
        bound = self.find_bound(control)
        if bound is None or self.name not in metrics:
            return None
        return metrics[self.name] - bound if self.sense == "<=" else bound - metrics[self.name]

    def find_bound(self, control: Metrics) -> float | None:
        """Return the bound in the metric's unit; None where it depends on a metric that the control lacks."""
        if self.relative and self.name not in control:
            return None
        if self.relative == "*":
            return control[self.name] * self.number
        if self.relative == "+":
            return control[self.name] + self.number
        if self.relative == "-":
            return control[self.name] - self.number
        return self.number


def parse_objectives(texts: list[str], known: Mapping[str, Direction | None]) -> tuple[SearchObjective, ...]:
    """Parse objectives such as `accuracy/val` and `max micro/runs`.

    Args:
        texts: Names of metrics; `max` or `min` before a name sets its direction.
        known: The direction of every metric that is measured, or None for a metric without one.

    Raises:
        BadInput: If a metric is not measured or has no direction, or the list is empty.
    """
    objectives = [_parse_objective(text, known) for text in texts]
    if not objectives or len({o.name for o in objectives}) < len(objectives):
        raise BadInput(f"search.objectives must name at least one measurement, each once. Received: {texts}.")
    return tuple(objectives)


def _parse_objective(text: str, known: Mapping[str, Direction | None]) -> SearchObjective:
    prefix, _, name = text.rpartition(" ")
    prefix = prefix.strip()
    _require_measured(name, known, "search.objectives")
    if prefix not in ("", "max", "min"):
        raise BadInput(f"search.objectives: '{text}' must be NAME, 'max NAME' or 'min NAME'.")
    direction = prefix or known[name]
    if not direction:
        raise BadInput(f"search.objectives: {name} has no direction. Write 'max {name}' or 'min {name}'.")
    if name.endswith("/test"):
        raise BadInput(
            f"search.objectives: trials do not look at the test split. Received: {name}. Take {name[:-4]}val"
        )
    return SearchObjective(name, "max" if direction == "max" else "min")


def parse_constraints(texts: list[Any], known: Iterable[str]) -> tuple[Constraint, ...]:
    """Parse constraints such as `size/file_bytes <= 64 KiB`, `accuracy/val >= control - 0.01` and `fits: nano33`.

    Args:
        texts: Constraints as YAML reads them; `fits: nano33` is a mapping.
        known: Names of the metrics that are measured.

    Raises:
        BadInput: If a constraint cannot be parsed or its metric is not measured.
    """
    names = set(known)
    return tuple(_parse_constraint(text, names) for text in texts)


def _parse_constraint(entry: Any, known: set[str]) -> Constraint:
    text = ", ".join(f"{k}: {v}" for k, v in entry.items()) if isinstance(entry, Mapping) else str(entry)
    place = f"search.constraints: '{text}'"
    if fits := _FITS.fullmatch(text.strip()):
        name = f"{FITS}{fits['board']}"
        _require_measured(name, known, place)
        return Constraint(text, name, ">=", 1.0, None)
    parts = _CONSTRAINT.fullmatch(text.strip())
    if parts is None:
        raise BadInput(f"{place} must be like 'size/file_bytes <= 64 KiB' or 'accuracy/val >= control - 0.01'.")
    name = parts["name"]
    _require_measured(name, known, place)
    if name.endswith("/test"):
        raise BadInput(f"{place}: trials do not look at the test split. Take {name[:-4]}val")
    bound = _BOUND.fullmatch(parts["bound"].strip())
    if bound is None or not _is_complete(bound):
        raise BadInput(f"{place}: '{parts['bound']}' is no bound. Write a number with its unit, or control - NUMBER.")
    relative = (bound["sign"] or "+") if bound["control"] else None
    number = _parse_number(bound["number"] or "0", bound["unit"] or "", _list_units(name, relative), f"{place}: ", name)
    return Constraint(text, name, parts["sense"], number, relative)


def _is_complete(bound: re.Match[str]) -> bool:
    """Return whether a bound is a number, `control`, or `control`, a sign and a number."""
    if not bound["control"]:
        return bool(bound["number"])
    return bool(bound["number"]) == bool(bound["sign"])


def _list_units(name: str, relative: str | None) -> Mapping[str, float]:
    """Return the units that a bound of a metric may have, with their factors."""
    suffix = next((suffix for suffix in ("bytes", "us", "s") if name.endswith((f"_{suffix}", f"/{suffix}"))), "")
    return _UNITS["" if relative == "*" else suffix]


def _parse_number(digits: str, unit: str, units: Mapping[str, float], prefix: str, name: str) -> float:
    if unit and unit.lower() not in units:
        raise BadInput(f"{prefix}'{unit}' is not a unit of {name}: {suggest_nearest(unit, units)}")
    try:
        number = float(digits) * (units[unit.lower()] if unit else 1)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"{prefix}'{digits}' is not a number.")
    return number


def _require_measured(name: str, known: Iterable[str], place: str) -> None:
    if name in known:
        return
    kind, _, rest = name.partition("/")
    target = rest.partition("/")[0]
    npu_metrics = [metric for metric in known if metric.startswith(f"npu/{target}/")]
    if kind == "fits" and npu_metrics:
        reason = f"{target} states no memory. Set +deploy.npus.{target}.sram=KIB and +deploy.npus.{target}.flash=KIB"
    elif kind == "npu" and "/" in rest:
        reason = suggest_nearest(name, npu_metrics) if npu_metrics else f"deploy=[{target}] asks for it."
    else:
        reason = f"{suggest_nearest(name, known)} The group measure sets what is measured."
    raise BadInput(f"{place}: {name} is not measured: {reason}")


def read_values(
    objectives: tuple[SearchObjective, ...], metrics: Metrics, notes: Mapping[str, str] | None = None
) -> list[float]:
    """Return the objectives' values.

    Args:
        objectives: The objectives.
        metrics: The trial's metrics.
        notes: Why metrics are missing, by their names. Defaults to None: nothing is known.

    Raises:
        RunFailed: If a value is missing or not finite.
    """
    values = []
    for objective in objectives:
        value = metrics.get(objective.name)
        if value is None:
            reason = (notes or {}).get(objective.name)
            raise RunFailed(f"{objective.name} was not measured{f': {reason}' if reason else ''}.")
        if not math.isfinite(value):
            raise RunFailed(f"{objective.name} is {value}.")
        values.append(value)
    return values
