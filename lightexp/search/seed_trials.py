"""Seed trials: the configurations that a study runs before its sampler proposes any (`search.corners`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightexp.core.errors import BadInput
from lightexp.runner.order import check_order
from lightexp.runner.settings import Settings, read_settings
from lightexp.search.pipeline_variants import PipelineVariant, drop_unordered_stages
from lightexp.search.ranges import ConfigPath, format_value
from lightexp.search.space import VARIANT, SearchSpace

_Choice = tuple[PipelineVariant, Mapping[ConfigPath, Any]]
"""A variant and the values that a seed trial sets in its config; None leaves a value as it is."""


@dataclass(frozen=True)
class SeedTrial:
    """A configuration that a study runs before its sampler proposes any.

    Attributes:
        name: As `search.corners` names it: `recipe`, `int8` or `strongest`.
        config: The run's config.
        params: Optuna's values of the parameters whose ranges contain this configuration.
        varied: The overrides that describe it to the user.
    """

    name: str
    config: DictConfig
    params: dict[str, Any]
    varied: list[str]


def make_seed_trials(names: list[str], base: DictConfig, settings: Settings, space: SearchSpace) -> list[SeedTrial]:
    """Make the seed trials, without duplicates and without those that this pipeline cannot run.

    Args:
        names: `recipe` is the config without changes; `int8` quantises to int8 and compresses in no other way;
            `strongest` sets every parameter to the value that compresses most.
        base: The config without changes.
        settings: Typed settings of `base`.
        space: The space that is searched.
    """
    seed_trials: dict[str, SeedTrial] = {}
    for name in names:
        if name == "recipe":
            variant, values = _choose_recipe(base, space)
        elif name == "int8":
            variant, values = _choose_int8(base, settings, space)
        else:
            variant, values = _choose_strongest(space)
        with suppress(BadInput):  # this pipeline cannot run it
            seed_trial = _make_seed_trial(name, space, variant, {p: v for p, v in values.items() if v is not None})
            check_order(read_settings(seed_trial.config))
            seed_trials.setdefault(OmegaConf.to_yaml(seed_trial.config), seed_trial)
    return list(seed_trials.values())


def _choose_recipe(base: DictConfig, space: SearchSpace) -> _Choice:
    variant = next((v for v in space.variants if v.config == base), PipelineVariant("", base))
    return variant, {p.path: variant.get_value(p.path) for p in space.select_parameters(variant)}


def _choose_int8(base: DictConfig, settings: Settings, space: SearchSpace) -> _Choice:
    """Keep the first quantisation and leave every other compressing stage out."""
    quantizer = next((name for name, stage in settings.stages.items() if stage.int8_settings), None)
    # The order may name a training stage that a model's file replaces; it compresses nothing and stays.
    omitted = {name for name, stage in settings.stages.items() if stage.compresses and name != quantizer}
    order = [name for name in base.pipeline.order if name not in omitted]
    existing = next((v for v in space.variants if list(v.config.pipeline.order) == order), None)
    variant = existing or PipelineVariant("", drop_unordered_stages(base, omitted, None))
    if quantizer is None:
        return variant, {}
    searched = [parameter.path for parameter in space.parameters]
    values: dict[ConfigPath, Any] = {}
    unmentioned: dict[ConfigPath, Any] = {}  # in the list of overrides
    for field, value in settings.stages[quantizer].int8_settings.items():
        path = ("pipeline", "stages", quantizer, field)
        is_set = variant.get_value(path) == value and path not in searched
        if is_set or value in (None, {}):
            unmentioned[path] = value
        else:
            values[path] = value
    return PipelineVariant(variant.label, variant.set_values(unmentioned)), values


def _choose_strongest(space: SearchSpace) -> _Choice:
    variant = max(space.variants, key=lambda v: len(v.config.pipeline.order))
    values: dict[ConfigPath, Any] = {}
    for parameter in space.select_parameters(variant):
        strongest = parameter.find_strongest()
        values[parameter.path] = variant.get_value(parameter.path) if strongest is None else strongest
    return variant, values


def _make_seed_trial(
    name: str, space: SearchSpace, variant: PipelineVariant, values: Mapping[ConfigPath, Any]
) -> SeedTrial:
    params: dict[str, Any] = {}
    for parameter in space.select_parameters(variant):
        value = values.get(parameter.path)
        nearest = parameter.to_optuna(value)
        if nearest is not None and parameter.from_optuna(nearest) == value:
            params[parameter.name] = nearest
    if len(space.variants) > 1 and variant.label in space.labels:
        params[VARIANT] = variant.label
    varied = [f"corner={name}", *(f"{'.'.join(path)}={format_value(value)}" for path, value in values.items())]
    return SeedTrial(name, variant.set_values(values), params, varied)
