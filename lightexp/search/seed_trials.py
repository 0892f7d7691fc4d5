"""What a study tries before anything is proposed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightexp.core.errors import BadInput
from lightexp.runner.plan import check_order
from lightexp.runner.settings import Settings, read_settings
from lightexp.search.pipeline_variants import PipelineVariant, drop_unordered_stages
from lightexp.search.ranges import ConfigPath, format_value
from lightexp.search.space import VARIANT, SearchSpace
from lightexp.stages.quantize import Quantize


@dataclass(frozen=True)
class SeedTrial:
    """A configuration that is tried first.

    Attributes:
        name: For people.
        config: The whole of it.
        params: Those of the space's parameters that it lies on, as Optuna calls their values.
        varied: What it sets, for people.
    """

    name: str
    config: DictConfig
    params: dict[str, Any]
    varied: list[str]


def make_seed_trials(names: list[str], base: DictConfig, settings: Settings, space: SearchSpace) -> list[SeedTrial]:
    """The corners, each once; one that cannot be run in this pipeline is left out.

    Args:
        names: `recipe` is the config as it stands, `int8` nothing but int8 quantisation, `strongest` every setting
            where it compresses most.
        base: The config as it stands.
        settings: The same, typed.
        space: What is searched.
    """
    found: dict[str, SeedTrial] = {}
    for name in names:
        structure, values = {"recipe": _recipe, "int8": _int8, "strongest": _strongest}[name](base, settings, space)
        with suppress(BadInput):
            corner = _corner(name, space, structure, {path: v for path, v in values.items() if v is not None})
            check_order(read_settings(corner.config))
            found.setdefault(OmegaConf.to_yaml(corner.config), corner)
    return list(found.values())


def _recipe(
    base: DictConfig, settings: Settings, space: SearchSpace
) -> tuple[PipelineVariant, Mapping[ConfigPath, Any]]:
    structure = next((s for s in space.variants if s.config == base), PipelineVariant("", base))
    return structure, {p.path: structure.get_value(p.path) for p in space.parameters}


def _int8(base: DictConfig, settings: Settings, space: SearchSpace) -> tuple[PipelineVariant, Mapping[ConfigPath, Any]]:
    """Every compressing stage left out but the first that quantises; none where none does."""
    kept = next((name for name, stage in settings.stages.items() if isinstance(stage, Quantize)), "")
    order = [n for n in base.pipeline.order if n == kept or not settings.stages[n].compresses]
    same = next((s for s in space.variants if list(s.config.pipeline.order) == order), None)
    structure = same or PipelineVariant("", drop_unordered_stages(base, set(), order))
    if not kept:
        return structure, {}
    place = ("pipeline", "stages", kept)
    values: dict[ConfigPath, Any] = {(*place, "scheme"): "int8", (*place, "bits"): 8}
    if structure.get_value((*place, "bits")) == 8 and (*place, "bits") not in [p.path for p in space.parameters]:
        del values[*place, "bits"]  # nothing to say of it
    plain: dict[ConfigPath, Any] = {
        (*place, name): value for name, value in (("block", None), ("tolerance", None), ("layers", {}))
    }
    return PipelineVariant(structure.label, structure.set_values(plain)), values


def _strongest(
    base: DictConfig, settings: Settings, space: SearchSpace
) -> tuple[PipelineVariant, Mapping[ConfigPath, Any]]:
    structure = max(space.variants, key=lambda s: len(s.config.pipeline.order))
    ends = {p.path: p.find_strongest() for p in space.select_parameters(structure)}
    return structure, {path: structure.get_value(path) if end is None else end for path, end in ends.items()}


def _corner(name: str, space: SearchSpace, structure: PipelineVariant, values: Mapping[ConfigPath, Any]) -> SeedTrial:
    params = {}
    for parameter in space.select_parameters(structure):
        value = values.get(parameter.path)
        inner = parameter.to_optuna(value)
        if inner is not None and parameter.from_optuna(inner) == value:
            params[parameter.name] = inner
    if len(space.variants) > 1 and structure.label in space.labels:
        params[VARIANT] = structure.label
    varied = [f"corner={name}", *(f"{'.'.join(path)}={format_value(value)}" for path, value in values.items())]
    return SeedTrial(name, structure.set_values(values), params, varied)
