"""Pipeline variants: the combinations of stages, methods and orders that a study chooses among."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep
from omegaconf import DictConfig, OmegaConf

from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.runner.order import check_order
from lightexp.runner.settings import read_settings
from lightexp.search.ranges import ConfigPath, format_value, list_choices, parse_sweep

_GROUPS = ("model", "pipeline")
_STAGES = ("pipeline", "stages")
_MAX_VARIANTS = 64  # every variant is composed before the study starts


@dataclass(frozen=True)
class PipelineVariant:
    """One combination of stages.

    Attributes:
        label: The overrides that distinguish it from the other variants; empty where there is one variant.
        config: The composed config, without the stages that this variant leaves out.
    """

    label: str
    config: DictConfig

    @cached_property
    def replaced_stages(self) -> frozenset[str]:
        """Names of the stages that do not run because the model is read, already trained, from a file."""
        return frozenset(self.config.pipeline.order) - read_settings(self.config).stages.keys()

    def get_value(self, path: ConfigPath) -> Any:
        """Return the value at a path of the config, or None where the path does not exist."""
        value: Any = self.config
        for key in path:
            value = value.get(key) if isinstance(value, DictConfig) else None
        return value

    def is_replaced(self, path: ConfigPath) -> bool:
        """Return whether a path belongs to a stage that does not run; see `replaced_stages`."""
        return path[:2] == _STAGES and len(path) > 2 and path[2] in self.replaced_stages

    def has(self, path: ConfigPath) -> bool:
        """Return whether a path is a setting of this variant; a mapping over layers accepts any layer's name."""
        if self.is_replaced(path):
            return False
        parent, owner = self.get_value(path[:-1]), self.get_value(path[:-2])
        if not isinstance(parent, DictConfig):
            return False
        maps_layers = isinstance(owner, DictConfig) and "_target_" in owner and "_target_" not in parent
        return path[-1] in parent or maps_layers

    def suggest_name(self, path: ConfigPath) -> str:
        """Return a hint for a path that this variant does not have."""
        depth = next(n for n in range(len(path)) if not self.has(path[: n + 1]))
        node = self.get_value(path[:depth])
        names = [str(key) for key in node if key != "_target_"] if isinstance(node, DictConfig) else []
        return suggest_nearest(path[depth], names)

    def set_values(self, values: Mapping[ConfigPath, Any]) -> DictConfig:
        """Return a copy of the config with values set at their paths."""
        config = copy_config(self.config)
        for path, value in values.items():
            node = config
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = value
        return config


def is_structural(name: str, text: str) -> bool:
    """Return whether an entry of the space changes which stages run, rather than a stage's value.

    Args:
        name: The dotted setting.
        text: Its range.
    """
    is_stage = name.startswith("pipeline.stages.") and name.count(".") == 2 and text != "auto"
    return is_stage or "@" in name or name in _GROUPS or name == "pipeline.order"


def enumerate_variants(
    space: Mapping[str, str], compose: Callable[[list[str]], DictConfig]
) -> tuple[PipelineVariant, ...]:
    """List the distinct variants whose stages are allowed in their order.

    Args:
        space: The structural settings, each with its choices.
        compose: Returns the run's config for overrides of config groups.

    Raises:
        BadInput: If no variant is possible, or there are more than 64.
    """
    axes = {name: _parse_structural_choices(name, text) for name, text in space.items()}
    if (count := math.prod(map(len, axes.values()))) > _MAX_VARIANTS:
        raise BadInput(f"search.space: at most {_MAX_VARIANTS} structures. Received: {count}. Leave some choices out.")
    variants: dict[str, PipelineVariant] = {}
    first_error: BadInput | None = None
    for values in itertools.product(*axes.values()):
        variant = _make_variant(dict(zip(axes, values, strict=True)), compose)
        settings = read_settings(variant.config)
        try:
            check_order(settings)
        except BadInput as error:
            first_error = first_error or error
            continue
        effective = drop_unordered_stages(variant.config, variant.replaced_stages, None)
        variants.setdefault(OmegaConf.to_yaml(effective), variant)
    if not variants:
        raise first_error or BadInput("search.space has no structure.")
    return tuple(variants.values())


def drop_unordered_stages(config: DictConfig, off: Iterable[str], order: list[str] | None) -> DictConfig:
    """Return a copy of a config without the stages that are switched off or missing from the order.

    Args:
        config: The run's config.
        off: Names of the stages to leave out.
        order: The stages' order. None takes the config's own.
    """
    config = copy_config(config)
    stages = config.pipeline.stages
    excluded = set(off)
    config.pipeline.order = [n for n in order or config.pipeline.order if n in stages and n not in excluded]
    for name in set(stages) - set(config.pipeline.order):
        del stages[name]
    return config


def copy_config(config: DictConfig) -> DictConfig:
    """Return a copy of a config that accepts new keys."""
    copy: DictConfig = pickle.loads(pickle.dumps(config))  # OmegaConf's own copy takes four times as long
    OmegaConf.set_struct(copy, False)
    return copy


def _make_variant(choices: Mapping[str, Any], compose: Callable[[list[str]], DictConfig]) -> PipelineVariant:
    overrides = [f"{name}={value}" for name, value in choices.items() if not name.startswith("pipeline.")]
    off = {
        name.split(".")[2] for name, value in choices.items() if name.startswith("pipeline.stages.") and value == "off"
    }
    config = drop_unordered_stages(compose(overrides), off, choices.get("pipeline.order"))
    return PipelineVariant(" ".join(f"{name}={format_value(value)}" for name, value in choices.items()), config)


def _parse_structural_choices(name: str, text: str) -> list[Any]:
    sweep = parse_sweep(name, text)
    if not isinstance(sweep, ChoiceSweep):
        raise BadInput(f"search.space: {name}={text} must be a choice(A, B).")
    values = list_choices(sweep)
    if name.startswith("pipeline.stages."):
        values = [_read_switch(value) for value in values]
        if set(values) != {"on", "off"}:
            raise BadInput(f"search.space: {name}={text}: write choice(on, off), or choose methods by stage@{name}.")
    return values


def _read_switch(value: Any) -> Any:
    """Return `on` or `off` for the booleans that Hydra's parser makes of these words."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return value
