"""Space builder: turns the ranges of `search.space` and the command line into a checked search space."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from omegaconf import DictConfig

from lightexp.core.config import locate
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Range, Stage
from lightexp.runner.settings import Settings, read_settings
from lightexp.search.pipeline_variants import PipelineVariant, is_structural
from lightexp.search.ranges import Parameter, parse_parameter
from lightexp.search.space import SearchSpace

AUTO = "auto"
"""Stands for the default ranges: of a stage, or as a setting's name of every compressing stage."""


class SpaceBuilder:
    """Builds the search space of a study."""

    def __init__(
        self,
        entries: Mapping[str, str],
        per_layer: Mapping[str, str],
        variants: Sequence[PipelineVariant],
        settings: Settings,
        fixed: Collection[str] = (),
    ) -> None:
        """Parse nothing yet.

        Args:
            entries: The range of each dotted setting, or `auto`.
            per_layer: `search.per_layer`.
            variants: The study's pipeline variants.
            settings: Typed settings of the study's runs.
            fixed: Settings to which the command line gives one value, so that they are not searched. Defaults to none.
        """
        self._entries, self._per_layer, self._fixed = entries, per_layer, set(fixed) - set(per_layer)
        self._variants, self._settings = tuple(variants), settings

    @cached_property
    def ranges(self) -> dict[str, str]:
        """The range of each setting that is not structural, with `auto` expanded.

        Raises:
            BadInput: If a stage does not run or has no default ranges, or a setting of `per_layer` has no range.
        """
        ranges: dict[str, str] = {}
        for name, text in self._entries.items():
            if is_structural(name, text):
                continue
            self._refuse_replaced_stage(name, text)
            expanded = self._expand_auto(name) if text == AUTO else {name: text}
            ranges |= {setting: values for setting, values in expanded.items() if setting not in self._fixed}
        for name in self._per_layer:
            if name not in ranges:
                default = self._find_default(name)
                if default is None:
                    raise BadInput(f"search.per_layer: {name} has no range. Give it one in search.space.")
                ranges[name] = default.values
        return ranges

    def build(self, layers: Mapping[str, list[str]]) -> SearchSpace:
        """Build the space.

        Args:
            layers: The layers' names by which each setting of `search.per_layer` is expanded.

        Raises:
            BadInput: If a setting does not exist, a range cannot be parsed, or its ends are not values of the setting.
        """
        parameters: list[Parameter] = []
        for name, text in self.ranges.items():
            parameters += self._parse_parameters(name, text, layers)
        if not parameters and len(self._variants) == 1:
            raise BadInput(
                "search.space is empty. Name a setting, such as "
                "'pipeline.stages.prune.sparsity=interval(0.5,0.98)', or set search.space=auto."
            )
        for parameter in parameters:
            self._check_end_values(parameter)
        return SearchSpace(self._variants, tuple(parameters))

    def _parse_parameters(self, name: str, text: str, layers: Mapping[str, list[str]]) -> list[Parameter]:
        """Return the parameter of a setting, or of each layer that a setting is expanded by."""
        path = tuple(name.split("."))
        if not any(variant.has(path) for variant in self._variants):
            hint = self._variants[0].suggest_name(path)
            if path[:2] == ("pipeline", "stages") and not any(variant.has(path[:3]) for variant in self._variants):
                hint += "" if hint.endswith("?") else "."
                hint += " search.space=auto takes the default ranges of this pipeline's stages."
            raise BadInput(f"search.space: {name} is not a setting: {hint}")
        default = self._find_default(name)
        strongest = default.strongest if default else None
        if name in layers:
            return [parse_parameter((*path, layer), text, None, strongest) for layer in layers[name]]
        return [parse_parameter(path, text, self._get_value(name), strongest)]

    def _expand_auto(self, name: str) -> dict[str, str]:
        """Return the default ranges of a stage, or of all stages that compress."""
        stages = [name]
        if name == AUTO:
            # The stages before are the control, which is the same in every trial.
            stages = [f"pipeline.stages.{key}" for key, stage in self._settings.stages.items() if stage.compresses]
        ranges = {}
        for stage in stages:
            defaults = self._list_defaults(stage)
            if not defaults:
                raise BadInput(f"search.space: {stage}=auto, but it has no default ranges. Name settings of it.")
            for field, default in defaults.items():
                if not isinstance(self._get_value(f"{stage}.{field}"), DictConfig):  # per_layer searches mappings
                    ranges[f"{stage}.{field}"] = default.values
        return ranges

    def _refuse_replaced_stage(self, name: str, text: str) -> None:
        """Refuse a range for a stage that does not run because the model is read, already trained, from a file."""
        path = tuple(name.split("."))
        if all(variant.is_replaced(path) for variant in self._variants):
            raise BadInput(
                f"search.space: the stage '{path[2]}' does not run: its place is taken by the model's file. "
                f"Received: {name}={text}. Leave this range out."
            )

    def _check_end_values(self, parameter: Parameter) -> None:
        """Check that a range's ends are values of its setting."""
        variant = next(v for v in self._variants if v.has(parameter.path))
        for value in parameter.list_end_values():
            try:
                read_settings(variant.set_values({parameter.path: value}))
            except BadInput as error:
                # Other settings may not allow this value now, and be varied together with it.
                if str(error).startswith(f"{parameter.name}:"):
                    raise BadInput(f"search.space: {error}") from None

    def _get_value(self, name: str) -> Any:
        """Return a setting's value in the first variant that has the setting, or None."""
        path = tuple(name.split("."))
        return next((variant.get_value(path) for variant in self._variants if variant.has(path)), None)

    def _find_default(self, name: str) -> Range | None:
        """Return the default range of a setting, or None."""
        stage, _, field = name.rpartition(".")
        return self._list_defaults(stage).get(field)

    def _list_defaults(self, stage: str) -> Mapping[str, Range]:
        """Return the default ranges of the fields of a stage; empty if there is no such stage."""
        target = self._get_value(f"{stage}._target_")
        if not target:
            return {}
        cls = locate(str(target), stage, tuple(self._settings.plain["plugins"]))
        return cls.search if issubclass(cls, Stage) else {}
