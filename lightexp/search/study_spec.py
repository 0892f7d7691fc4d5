"""Study specification: a study as the command line describes it, checked before data or TensorFlow are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from lightexp.core.config import construct
from lightexp.core.errors import BadInput
from lightexp.runner.compose import add_config_dirs, as_bad_input, compose_config
from lightexp.runner.settings import Settings, read_settings
from lightexp.search import goals
from lightexp.search.halving import SuccessiveHalving
from lightexp.search.npu_goals import require_integer_files
from lightexp.search.pipeline_variants import (
    PipelineVariant,
    copy_config,
    drop_unordered_stages,
    enumerate_variants,
    is_structural,
)
from lightexp.search.pruners import make_pruner
from lightexp.search.ranges import escape_null_choices
from lightexp.search.seed_trials import SeedTrial, make_seed_trials
from lightexp.search.settings import SearchSettings
from lightexp.search.space import SearchSpace
from lightexp.search.space_builder import AUTO, SpaceBuilder
from lightexp.search.study_identity import StudyIdentity, describe_identity

CONFIG = "search"
"""Name of the primary config."""
PRIMARY_ALIAS = "primary/"
"""What stands for the task's primary metric in objectives and constraints."""
_SHARED = (
    "dataset",
    "measure",
    "tracking",
    "plugins",
    "runtime",
    "paths",
    "store",
    "seed",
    "search",
    "hydra",
    "experiment",
    "task",
)
"""Config nodes that all trials share, so that they cannot be searched."""


class StudySpec:
    """A study as the command line describes it.

    Attributes:
        arguments: Arguments, as JSON types, that make the same specification in another process.
        search: Settings of the study.
        base: The run's config without changes, and without stages that its order does not name.
        settings: Typed settings of `base`.

    Example:
        >>> spec = StudySpec(["pipeline.stages.prune.sparsity=interval(0.5,0.9)"], [])  # doctest: +SKIP
        >>> [parameter.name for parameter in spec.make_space({}).parameters]  # doctest: +SKIP
        ['pipeline.stages.prune.sparsity', 'pipeline.stages.prune.allocation', 'pipeline.stages.quantize.scheme']
    """

    def __init__(
        self,
        overrides: list[str],
        config_dirs: list[str],
        config_name: str = CONFIG,
        search: dict[str, Any] | None = None,
    ) -> None:
        """Compose the config and validate the study's settings.

        Args:
            overrides: Hydra's overrides, of which sweeps are ranges to search.
            config_dirs: The user's own config folders.
            config_name: Name of the primary config. Defaults to `search`.
            search: Settings of the study. Defaults to None: they are the config's node `search`.

        Raises:
            BadInput: If the config cannot be composed, or a setting of the study is wrong.
        """
        self.arguments: dict[str, Any] = {
            "overrides": overrides,
            "config_dirs": [str(Path(folder).absolute()) for folder in config_dirs],
            "config_name": config_name,
            "search": search,
        }
        self._config_name = config_name
        add_config_dirs(config_dirs)
        self._fixed, sweeps = _separate_sweeps(overrides, config_name)
        self._unsearched = {override.partition("=")[0].lstrip("+") for override in self._fixed} - sweeps.keys()
        config = compose_config(self._fixed, config_name)
        values = _to_plain(config.search) if search is None else search
        self.search = construct(SearchSettings, values, "search")
        self._space_entries = self._join_space(sweeps)
        self._use_base(_drop_search(config))
        if not any(override.startswith("measure=") for override in self._fixed) and not self._measures_goals():
            self._fixed.append("measure=default")  # every metric, such as the one that `fits: nano33` needs
            self._use_base(self._compose([]))

    def _use_base(self, config: DictConfig) -> None:
        self.base = drop_unordered_stages(config, set(), None)
        self.settings: Settings = read_settings(self.base)

    def _join_space(self, sweeps: Mapping[str, str]) -> dict[str, str]:
        """Return the ranges of `search.space` and of the command line, which has precedence, by setting."""
        space = self.search.space if isinstance(self.search.space, dict) else {AUTO: AUTO}
        entries = {name: str(text) for name, text in {**space, **sweeps}.items()}
        for name in entries:
            if name.partition(".")[0].partition("@")[0] in _SHARED:
                raise BadInput(f"search.space: {name} is not searched: trials share it. Give it one value.")
        return entries

    def _measures_goals(self) -> bool:
        try:
            goals.parse_objectives(self._objective_names, self._list_measured())
            goals.parse_constraints(self._constraint_texts, self._list_measured())
        except BadInput:
            return False
        return True

    def _list_measured(self) -> dict[str, goals.Direction | None]:
        """Return the direction of every metric that the runs measure."""
        directions: dict[str, goals.Direction | None] = {"time/train_s": "min"}
        for measurement in self.settings.measure.values():
            directions |= measurement.list_metrics(self.settings.task)
        return directions

    @property
    def name(self) -> str:
        """The study's name."""
        return self.search.study or self.settings.name.replace(" ", "-")

    @property
    def folder(self) -> Path:
        """The folder of the study's files."""
        return self.settings.outputs / "searches" / self.name

    def check(self) -> None:
        """Check the goals, the variants, the pruner and successive halving.

        Raises:
            BadInput: For the first that is wrong.
        """
        _ = self.constraints, self.halving
        variants = (read_settings(variant.config) for variant in self.variants)
        require_integer_files([objective.name for objective in self.objectives], variants, self.ranges)
        make_pruner(self.search.pruner, self.objectives, self.settings.task)
        if self.search.pruner and self.halving:
            raise BadInput("search.pruner and search.halving both cut trainings short. Set one of them to null.")

    @property
    def _objective_names(self) -> list[str]:
        """The objectives as the user has written them, with the name of the task's primary metric."""
        return [text.replace(PRIMARY_ALIAS, f"{self.settings.task.primary}/") for text in self.search.objectives]

    @property
    def _constraint_texts(self) -> list[Any]:
        primary = f"{self.settings.task.primary}/"
        texts = self.search.constraints
        return [text.replace(PRIMARY_ALIAS, primary) if isinstance(text, str) else text for text in texts]

    @cached_property
    def objectives(self) -> tuple[goals.SearchObjective, ...]:
        """The metrics that the study optimises."""
        return goals.parse_objectives(self._objective_names, self._list_measured())

    @cached_property
    def constraints(self) -> tuple[goals.Constraint, ...]:
        """The bounds that a feasible trial satisfies."""
        return goals.parse_constraints(self._constraint_texts, self._list_measured())

    @cached_property
    def halving(self) -> SuccessiveHalving | None:
        """Successive halving, or None if every configuration is trained to its end."""
        if self.search.halving is None:
            return None
        return construct(SuccessiveHalving, self.search.halving, "search.halving")

    @cached_property
    def variants(self) -> tuple[PipelineVariant, ...]:
        """The pipeline variants; see `lightexp.search.pipeline_variants`."""
        structural = {name: text for name, text in self._space_entries.items() if is_structural(name, text)}
        return enumerate_variants(structural, self._compose)

    def _compose(self, groups: list[str]) -> DictConfig:
        """Return the run's config with further overrides of config groups."""
        return _drop_search(compose_config([*self._fixed, *groups], self._config_name))

    @cached_property
    def _space_builder(self) -> SpaceBuilder:
        return SpaceBuilder(self._space_entries, self.search.per_layer, self.variants, self.settings, self._unsearched)

    @property
    def ranges(self) -> dict[str, str]:
        """The range of each searched setting that is not structural; see `SpaceBuilder.ranges`."""
        return self._space_builder.ranges

    def make_space(self, layers: Mapping[str, list[str]]) -> SearchSpace:
        """Build the search space; see `SpaceBuilder.build`.

        Args:
            layers: The layers' names by which each setting of `search.per_layer` is expanded; see
                `lightexp.search.layer_names`.
        """
        return self._space_builder.build(layers)

    def make_seed_trials(self, space: SearchSpace) -> list[SeedTrial]:
        """Make the configurations that are run first; see `lightexp.search.seed_trials`."""
        return make_seed_trials(list(self.search.corners), self.base, self.settings, space)

    @property
    def workers(self) -> int:
        """Number of worker processes: one if latency is measured, since nothing else may compute meanwhile."""
        return 1 if self._has_latency_goal else self.search.workers

    @property
    def threads(self) -> int:
        """Number of threads of one worker."""
        return max(1, self.settings.threads // self.workers)

    @property
    def _has_latency_goal(self) -> bool:
        names = [o.name for o in self.objectives] + [c.name for c in self.constraints]
        return any(name.startswith("latency/") for name in names)

    def make_trial_settings(self, config: DictConfig, rung: int | None = None) -> Settings:
        """Return the typed settings of one trial; latency is measured only if it is a goal.

        Args:
            config: The trial's config.
            rung: The rung of successive halving. Defaults to None: the trial is trained to its end.
        """
        config = copy_config(config)
        config.runtime.threads = self.threads
        for name, measurement in self.settings.measure.items():
            if measurement.is_timing and not self._has_latency_goal:
                config.measure[name] = None
        if rung is None or self.halving is None:
            return read_settings(config)
        return replace(read_settings(config), rung=self.halving.make_rung(rung))

    def compute_identity(self, space: SearchSpace, data: Mapping[str, object]) -> StudyIdentity:
        """Describe what two commands must share to work on one study.

        The number of trials and workers, the data's place and the storage are not part of it.

        Args:
            space: The study's space.
            data: `Data.key` of the data set.
        """
        run = self.settings
        optional = {name: getattr(self.search, name) for name in ("pruner", "halving")}
        return describe_identity(
            {
                "dataset": data,
                "model": run.model,
                "pipeline.stages": run.stages,
                "pipeline.order": list(run.stages),
                "pipeline.waive": run.waive,
                "measure": run.measure,
                "seed": run.seed,
                **{f"search.{name}": getattr(self.search, name) for name in ("constraints", "sampler")},
                "search.objectives": self._objective_names,
                **{f"search.{name}": value for name, value in optional.items() if value is not None},
                **{f"search.space.{p.name}": str(p) for p in space.parameters},
                "search.structures": space.labels,
            }
        )


def _separate_sweeps(overrides: list[str], config_name: str) -> tuple[list[str], dict[str, str]]:
    """Separate overrides that set one value from those that are ranges.

    Returns:
        The overrides with one value, and the range of each other setting by its name.
    """
    fixed: list[str] = []
    sweeps: dict[str, str] = {}
    for override in overrides:
        try:
            parsed = OverridesParser.create().parse_overrides([escape_null_choices(override)])[0]
        except HydraException as error:
            raise as_bad_input(error, overrides, config_name) from None
        if parsed.is_sweep_override():
            name, _, text = override.partition("=")
            sweeps[name.lstrip("+")] = text
        else:
            fixed.append(override)
    return fixed, sweeps


def _drop_search(config: DictConfig) -> DictConfig:
    """Return a copy of a composed config without the study's settings, which are no part of a run."""
    config = copy_config(config)
    config.pop("search", None)
    return config


def _to_plain(config: DictConfig) -> dict[str, Any]:
    return {str(k): v for k, v in OmegaConf.to_container(config, resolve=True).items()}  # type: ignore[union-attr]
