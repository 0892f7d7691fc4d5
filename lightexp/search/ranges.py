"""Ranges: settings that a study searches, written in Hydra's sweep syntax and read by Hydra's own parser."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial

from lightexp.core.errors import BadInput

ConfigPath = tuple[str, ...]
_NULL = "lightexp-null"


@dataclass(frozen=True)
class Parameter:
    """One searched setting.

    Attributes:
        path: Its keys in the config.
        distribution: Optuna's.
        choices: What a categorical distribution's choices stand for.
        strongest: The value that compresses most, if one does.
    """

    path: ConfigPath
    distribution: BaseDistribution
    choices: Mapping[CategoricalChoiceType, Any] = field(default_factory=dict)
    strongest: Any = None

    @property
    def name(self) -> str:
        """Dotted, as on the command line."""
        return ".".join(self.path)

    def suggest(self, trial: BaseTrial) -> Any:
        """A value for a trial."""
        ranged = self.distribution
        if isinstance(ranged, CategoricalDistribution):
            return self.choices[trial.suggest_categorical(self.name, ranged.choices)]
        if isinstance(ranged, IntDistribution):
            return trial.suggest_int(self.name, ranged.low, ranged.high, step=ranged.step, log=ranged.log)
        assert isinstance(ranged, FloatDistribution)
        return trial.suggest_float(self.name, ranged.low, ranged.high, step=ranged.step, log=ranged.log)

    def to_optuna(self, value: Any) -> Any:
        """What Optuna calls the nearest value that it can propose; None where there is none."""
        if isinstance(self.distribution, CategoricalDistribution):
            return next((inner for inner, outer in self.choices.items() if outer == value), None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        low, high, step = self.distribution.low, self.distribution.high, self.distribution.step
        inside = min(max(value, low), high)
        if step is not None:
            inside = low + round((inside - low) / step) * step
        return int(inside) if isinstance(self.distribution, IntDistribution) else float(inside)

    def from_optuna(self, inner: Any) -> Any:
        """The value that Optuna calls `inner`."""
        return self.choices.get(inner, inner)

    def list_end_values(self) -> list[Any]:
        """The values that are checked before a study starts: the ends of a range, or every choice."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.choices.values())
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        return [self.distribution.low, self.distribution.high]

    def find_strongest(self) -> Any:
        """Of what it can propose, what is nearest to the strongest; None where nothing is stronger."""
        return None if self.strongest is None else self.to_optuna(self.strongest)

    def __str__(self) -> str:
        """For people."""
        if isinstance(self.distribution, CategoricalDistribution):
            return f"one of {', '.join(map(format_value, self.list_end_values()))}"
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        step = f" in steps of {self.distribution.step:g}" if self.distribution.step not in (None, 1) else ""
        kind = "whole numbers " if isinstance(self.distribution, IntDistribution) else ""
        log = ", logarithmic" if self.distribution.log else ""
        return f"{kind}{self.distribution.low:g} to {self.distribution.high:g}{step}{log}"


def format_value(value: Any) -> str:
    """A value as a command line has it."""
    if isinstance(value, list):
        return f"[{','.join(map(format_value, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def parse_parameter(path: ConfigPath, text: str, like: Any, strongest: Any = None) -> Parameter:
    """Reads one parameter.

    Args:
        path: Its keys in the config.
        text: In Hydra's sweep syntax.
        like: A value that the setting has now: a range over whole numbers is one of integers where this is one.
        strongest: The value that compresses most.

    Raises:
        BadInput: If it cannot be read, or is empty or reversed.
    """
    where = ".".join(path)
    sweep = parse_sweep(where, text)
    if isinstance(sweep, ChoiceSweep):
        values = list_choices(sweep)
        plain = all(v is None or isinstance(v, bool | int | float | str) for v in values)
        choices: dict[CategoricalChoiceType, Any] = {(v if plain else format_value(v)): v for v in values}
        if len(choices) < len(values):
            raise BadInput(f"search.space: {where}={text} names a value twice.")
        return Parameter(path, CategoricalDistribution(tuple(choices)), choices, strongest)
    if isinstance(sweep, IntervalSweep):
        low, high, step = sweep.start, sweep.end, None
    else:
        low, step = float(sweep.start or 0), float(sweep.step)
        if step <= 0:
            raise BadInput(
                f"search.space: {where}={text}: the step must be above 0, from the smaller end to the larger."
            )
        count = math.ceil((float(sweep.stop or 0) - low) / step - 1e-9)
        high = round(low + (count - 1) * step, 12)  # 0.7, not 0.7000000000000001
    if unknown := sorted(sweep.tags - {"log", "int"}):
        raise BadInput(f"search.space: {where}={text}: tag '{unknown[0]}' means nothing here. Use log or int.")
    if low is None or high is None or not low < high or not (math.isfinite(low) and math.isfinite(high)):
        raise BadInput(f"search.space: {where}={text} is empty or reversed. Write the smaller end first.")
    log = "log" in sweep.tags
    if log and (low <= 0 or step is not None):
        raise BadInput(f"search.space: {where}={text}: a logarithmic range is an interval above 0.")
    whole = float(low).is_integer() and float(high).is_integer() and float(step or 1).is_integer()
    integer = "int" in sweep.tags or (whole and isinstance(sweep.start, int) and isinstance(like, int | None))
    integer = integer or (whole and isinstance(like, int) and not isinstance(like, bool))
    if integer and not whole:
        raise BadInput(f"search.space: {where}={text} is to hold whole numbers, but its ends are not.")
    if integer:
        return Parameter(path, IntDistribution(int(low), int(high), log, int(step or 1)), {}, strongest)
    return Parameter(path, FloatDistribution(float(low), float(high), log, step), {}, strongest)


def escape_null_choices(word: str) -> str:
    """A word in which Hydra's parser takes null among the choices, too; `chosen` makes it null again."""
    return re.sub(r"(?<=[(,\s])null(?=\s*[,)])", _NULL, word) if "choice(" in word else word


def list_choices(sweep: ChoiceSweep) -> list[Any]:
    """The values of a choice."""
    return [None if v == _NULL else getattr(v, "text", v) for v in sweep.list]


def parse_sweep(where: str, text: str) -> ChoiceSweep | IntervalSweep | RangeSweep:
    """Parses a sweep.

    Raises:
        BadInput: If it is none.
    """
    try:
        value = OverridesParser.create().parse_override(f"x={escape_null_choices(text)}").value()
    except HydraException:
        value = None
    if not isinstance(value, ChoiceSweep | IntervalSweep | RangeSweep):
        raise BadInput(
            f"search.space: {where}={text} is no range. "
            "Write interval(LOW, HIGH), range(START, STOP, STEP) or choice(A, B)."
        )
    return value
