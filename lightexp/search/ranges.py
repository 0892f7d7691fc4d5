"""Ranges: searched settings in Hydra's sweep syntax, and the Optuna distributions that they mean."""

from __future__ import annotations

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
from lightexp.core.json_text import encode_json

ConfigPath = tuple[str, ...]
"""Keys that lead to a setting of the config."""
_STAGES = "pipeline.stages."
_LONG_NUMBER = re.compile(r"(?<![\w.])\d+\.\d{5,}(?:e[+-]?\d+)?(?![\w.])")
_NULL = "lightexp-null"
"""Replaces null among choices while Hydra parses them; its parser accepts no null there."""


@dataclass(frozen=True)
class Parameter:
    """One searched setting.

    Attributes:
        path: Keys of the setting in the config.
        distribution: Optuna's distribution of its values.
        choices: The setting's value for each choice of a categorical distribution.
        strongest: The value that compresses most. Defaults to None: no value does.

    Example:
        >>> parameter = parse_parameter(("prune", "sparsity"), "interval(0.5, 0.9)", current=0.8)
        >>> parameter.name, str(parameter)
        ('prune.sparsity', '0.5 to 0.9')
    """

    path: ConfigPath
    distribution: BaseDistribution
    choices: Mapping[CategoricalChoiceType, Any] = field(default_factory=dict)
    strongest: Any = None

    @property
    def name(self) -> str:
        """The setting's name on the command line."""
        return ".".join(self.path)

    def suggest(self, trial: BaseTrial) -> Any:
        """Return the value that a trial tries."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return self.choices[trial.suggest_categorical(self.name, distribution.choices)]
        low, high, step, log = distribution.low, distribution.high, distribution.step, distribution.log  # type: ignore[attr-defined]
        if isinstance(distribution, IntDistribution):
            return trial.suggest_int(self.name, low, high, step=step, log=log)
        return trial.suggest_float(self.name, low, high, step=step, log=log)

    def to_optuna(self, value: Any) -> Any:
        """Return Optuna's value for the nearest value that can be proposed, or None if there is no such value."""
        if isinstance(self.distribution, CategoricalDistribution):
            return next((choice for choice, chosen in self.choices.items() if chosen == value), None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        low, high, step = self.distribution.low, self.distribution.high, self.distribution.step
        nearest = min(max(value, low), high)
        if step is not None:
            nearest = low + round((nearest - low) / step) * step
        return int(nearest) if isinstance(self.distribution, IntDistribution) else float(nearest)

    def from_optuna(self, value: Any) -> Any:
        """Return the setting's value for Optuna's value."""
        return self.choices.get(value, value)

    def list_end_values(self) -> list[Any]:
        """Return the values that are validated before a study starts: both ends of a range, or every choice."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.choices.values())
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        return [self.distribution.low, self.distribution.high]

    def find_strongest(self) -> Any:
        """Return the value within the range that compresses most, or None if no value does."""
        return None if self.strongest is None else self.to_optuna(self.strongest)

    def __str__(self) -> str:
        """Describe the range to the user."""
        if isinstance(self.distribution, CategoricalDistribution):
            return f"one of {', '.join(map(format_value, self.list_end_values()))}"
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        prefix = "whole numbers " if isinstance(self.distribution, IntDistribution) else ""
        step = f" in steps of {self.distribution.step:g}" if self.distribution.step not in (None, 1) else ""
        log = ", logarithmic" if self.distribution.log else ""
        return f"{prefix}{self.distribution.low:g} to {self.distribution.high:g}{step}{log}"


def format_value(value: Any) -> str:
    """Format a value as the command line takes it."""
    if isinstance(value, list):
        return f"[{','.join(map(format_value, value))}]"
    return value if isinstance(value, str) else encode_json(value)


def shorten_setting(text: str) -> str:
    """Return a setting or an override as people read it: four digits, and without the place of all stages.

    Example:
        >>> shorten_setting("pipeline.stages.prune.sparsity=0.5631757872825871")
        'prune.sparsity=0.5632'
    """
    return _LONG_NUMBER.sub(lambda match: f"{float(match[0]):.4g}", text.removeprefix(_STAGES))


def parse_parameter(path: ConfigPath, text: str, current: Any, strongest: Any = None) -> Parameter:
    """Parse the range of one setting.

    Args:
        path: Keys of the setting in the config.
        text: The range in Hydra's sweep syntax.
        current: The setting's value in the config. A range over whole numbers is one of integers if this is an integer.
        strongest: The value that compresses most. Defaults to None: no value does.

    Raises:
        BadInput: If the range cannot be parsed, is empty or is reversed.
    """
    name = ".".join(path)
    sweep = parse_sweep(name, text)
    if isinstance(sweep, ChoiceSweep):
        return _parse_choices(path, sweep, f"search.space: {name}={text}", strongest)
    if unknown := sorted(sweep.tags - {"log", "int"}):
        raise BadInput(f"search.space: {name}={text}: tag '{unknown[0]}' means nothing here. Use log or int.")
    return _parse_interval(path, sweep, f"search.space: {name}={text}", current, strongest)


def _parse_choices(path: ConfigPath, sweep: ChoiceSweep, place: str, strongest: Any) -> Parameter:
    values = list_choices(sweep)
    # Optuna stores plain values only; lists and mappings are known to it by their text.
    plain = all(value is None or isinstance(value, bool | int | float | str) for value in values)
    choices: dict[CategoricalChoiceType, Any] = {(v if plain else format_value(v)): v for v in values}
    if len(choices) < len(values):
        raise BadInput(f"{place} names a value twice.")
    return Parameter(path, CategoricalDistribution(tuple(choices)), choices, strongest)


def _parse_interval(
    path: ConfigPath, sweep: IntervalSweep | RangeSweep, place: str, current: Any, strongest: Any
) -> Parameter:
    low, high, step = _find_bounds(sweep, place)
    if low is None or high is None or not low < high or not (math.isfinite(low) and math.isfinite(high)):
        raise BadInput(f"{place} is empty or reversed. Write the smaller end first.")
    log = "log" in sweep.tags
    if log and (low <= 0 or step is not None):
        raise BadInput(f"{place}: a logarithmic range is an interval above 0.")
    is_whole = float(low).is_integer() and float(high).is_integer() and float(step or 1).is_integer()
    tagged = "int" in sweep.tags
    if tagged and not is_whole:
        raise BadInput(f"{place} must hold whole numbers, but its ends are not. Write whole numbers, or leave out int.")
    if tagged or (is_whole and _suggests_integers(sweep, current)):
        return Parameter(path, IntDistribution(int(low), int(high), log, int(step or 1)), {}, strongest)
    return Parameter(path, FloatDistribution(float(low), float(high), log, step), {}, strongest)


def _suggests_integers(sweep: IntervalSweep | RangeSweep, current: Any) -> bool:
    """Return whether a range over whole numbers is one of integers, by the setting's value or the range's own."""
    if isinstance(current, bool):
        return isinstance(sweep.start, int)
    return isinstance(current, int) or (current is None and isinstance(sweep.start, int))


def _find_bounds(sweep: IntervalSweep | RangeSweep, place: str) -> tuple[float | None, float | None, float | None]:
    """Return the lowest value, the highest value and the step of a sweep; an interval has no step."""
    if isinstance(sweep, IntervalSweep):
        return sweep.start, sweep.end, None
    low, step = float(sweep.start or 0), float(sweep.step)
    if step <= 0:
        raise BadInput(f"{place}: the step must be above 0, from the smaller end to the larger.")
    count = math.ceil((float(sweep.stop or 0) - low) / step - 1e-9)  # the end is excluded, as in Hydra
    return low, round(low + (count - 1) * step, 12), step  # rounded to 0.7, not 0.7000000000000001


def escape_null_choices(override: str) -> str:
    """Replace null among the choices of an override, which Hydra's parser does not accept; see `list_choices`."""
    return re.sub(r"(?<=[(,\s])null(?=\s*[,)])", _NULL, override) if "choice(" in override else override


def list_choices(sweep: ChoiceSweep) -> list[Any]:
    """Return the values of a choice, with null in place of its replacement by `escape_null_choices`."""
    return [None if value == _NULL else getattr(value, "text", value) for value in sweep.list]


def parse_sweep(name: str, text: str) -> ChoiceSweep | IntervalSweep | RangeSweep:
    """Parse a sweep with Hydra's parser.

    Args:
        name: The dotted setting, for messages.
        text: The range in Hydra's sweep syntax.

    Raises:
        BadInput: If the text is not a range.
    """
    try:
        value = OverridesParser.create().parse_override(f"x={escape_null_choices(text)}").value()
    except HydraException:
        value = None
    if not isinstance(value, ChoiceSweep | IntervalSweep | RangeSweep):
        raise BadInput(
            f"search.space: {name}={text} is no range. "
            "Write interval(LOW, HIGH), range(START, STOP, STEP) or choice(A, B)."
        )
    return value
