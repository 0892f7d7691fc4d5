"""The structures of a space: which stages there are, of which method, in which order."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep
from omegaconf import DictConfig, OmegaConf

from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.runner.plan import check_order
from lightexp.runner.settings import read_settings
from lightexp.search.ranges import ConfigPath, format_value, list_choices, parse_sweep

_GROUPS = ("model", "pipeline")
_MOST = 64  # each is composed before the study starts


@dataclass(frozen=True)
class PipelineVariant:
    """One structure.

    Attributes:
        label: What sets it apart, as overrides.
        config: The composed config, stages that it leaves out removed.
    """

    label: str
    config: DictConfig

    def get_value(self, path: ConfigPath) -> Any:
        """What stands at a place of the config; None where nothing does."""
        found: Any = self.config
        for key in path:
            found = found.get(key) if isinstance(found, DictConfig) else None
        return found

    def has(self, path: ConfigPath) -> bool:
        """Whether there is such a setting here; a mapping over layers takes any name."""
        parent, owner = self.get_value(path[:-1]), self.get_value(path[:-2])
        over_layers = isinstance(owner, DictConfig) and "_target_" in owner and "_target_" not in (parent or ())
        return isinstance(parent, DictConfig) and (path[-1] in parent or over_layers)

    def suggest_name(self, path: ConfigPath) -> str:
        """What may have been meant by a place that is not here."""
        depth = next(n for n in range(len(path)) if not self.has(path[: n + 1]))
        node = self.get_value(path[:depth])
        return suggest_nearest(
            path[depth], [str(k) for k in node if k != "_target_"] if isinstance(node, DictConfig) else []
        )

    def set_values(self, values: Mapping[ConfigPath, Any]) -> DictConfig:
        """The config with values set."""
        config = copy_config(self.config)
        for path, value in values.items():
            node = config
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = value
        return config


def is_structural(name: str, text: str) -> bool:
    """Whether a setting of the space changes which stages there are, and not only a value."""
    a_stage = name.startswith("pipeline.stages.") and name.count(".") == 2 and text != "auto"
    return a_stage or "@" in name or name in _GROUPS or name == "pipeline.order"


def enumerate_variants(
    space: Mapping[str, str], compose: Callable[[list[str]], DictConfig]
) -> tuple[PipelineVariant, ...]:
    """The structures whose stages can stand in their order, each once.

    Args:
        space: The structural settings, each with its choices.
        compose: From overrides of groups to the run's config.

    Raises:
        BadInput: If no structure is possible, or there are too many.
    """
    axes = {name: _choices(name, text) for name, text in space.items()}
    if (count := math.prod(map(len, axes.values()))) > _MOST:
        raise BadInput(f"search.space: {count} structures are too many, {_MOST} is the most. Leave some out.")
    found: dict[str, PipelineVariant] = {}
    refused: BadInput | None = None
    for values in itertools.product(*axes.values()):
        picked = dict(zip(axes, values, strict=True))
        groups = [f"{name}={value}" for name, value in picked.items() if not name.startswith("pipeline.")]
        off = {name.split(".")[2] for name, v in picked.items() if name.startswith("pipeline.stages.") and v == "off"}
        config = drop_unordered_stages(compose(groups), off, picked.get("pipeline.order"))
        settings = read_settings(config)
        try:
            check_order(settings)
        except BadInput as error:
            refused = refused or error
            continue
        label = " ".join(f"{name}={format_value(value)}" for name, value in picked.items())
        found.setdefault(OmegaConf.to_yaml(config), PipelineVariant(label, config))
    if not found:
        raise refused or BadInput("search.space has no structure.")
    return tuple(found.values())


def drop_unordered_stages(config: DictConfig, off: set[str], order: list[str] | None) -> DictConfig:
    """A config without the stages that are off or not in the order."""
    config = copy_config(config)
    stages = config.pipeline.stages
    config.pipeline.order = [n for n in order or config.pipeline.order if n in stages and n not in off]
    for name in set(stages) - set(config.pipeline.order):
        del stages[name]
    return config


def copy_config(config: DictConfig) -> DictConfig:
    """A copy that can be changed."""
    copy: DictConfig = pickle.loads(pickle.dumps(config))  # OmegaConf's own takes four times as long
    OmegaConf.set_struct(copy, False)
    return copy


def _choices(name: str, text: str) -> list[Any]:
    sweep = parse_sweep(name, text)
    if not isinstance(sweep, ChoiceSweep):
        raise BadInput(f"search.space: {name}={text} must be a choice(A, B).")
    values = list_choices(sweep)
    if name.startswith("pipeline.stages."):
        values = [{True: "on", False: "off"}.get(v, v) if isinstance(v, bool) else v for v in values]
        if set(values) != {"on", "off"}:
            raise BadInput(f"search.space: {name}={text}: write choice(on, off), or choose methods by stage@{name}.")
    return values
