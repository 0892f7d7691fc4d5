"""From a command line to a checked study: everything that can be refused before data or TensorFlow are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path as FolderPath
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from lightexp.core.config import construct, locate
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Range, Stage
from lightexp.runner.compose import add_config_dirs, as_bad_input, compose_config
from lightexp.runner.settings import Settings, read_settings
from lightexp.search import goals
from lightexp.search.halving import SuccessiveHalving
from lightexp.search.pipeline_variants import (
    PipelineVariant,
    copy_config,
    drop_unordered_stages,
    enumerate_variants,
    is_structural,
)
from lightexp.search.pruners import make_pruner
from lightexp.search.ranges import Parameter, escape_null_choices, parse_parameter
from lightexp.search.seed_trials import SeedTrial, make_seed_trials
from lightexp.search.settings import SearchSettings
from lightexp.search.space import SearchSpace
from lightexp.search.study_identity import StudyIdentity, describe_identity

CONFIG = "search"
_FIXED = ("dataset", "measure", "tracking", "plugins", "runtime", "paths", "seed", "search", "hydra", "experiment")
_AUTO = "auto"


class StudySpec:
    """A study as the command line describes it.

    Attributes:
        words: Overrides, some of them sweeps.
        folders: The user's own config folders.
        order: What makes it again in another process, as JSON has it.
        search: How it runs.
        base: The run's config as it stands, without stages that are not in its order.
        settings: The same, typed.
    """

    def __init__(
        self, words: list[str], folders: list[str], config: str = CONFIG, search: dict[str, Any] | None = None
    ) -> None:
        """Reads the command line.

        Args:
            words: Overrides, some of them sweeps.
            folders: The user's own config folders.
            config: The primary config's name. Defaults to `search`.
            search: The fields of `search` where the config has no such node. Defaults to None: it has one.

        Raises:
            BadInput: If it cannot be composed, or a setting of `search` is wrong.
        """
        self.words, self.folders, self._config = words, folders, config
        self.arguments: dict[str, Any] = {"words": words, "folders": [str(FolderPath(f).absolute()) for f in folders]}
        self.arguments |= {"config": config, "search": search}
        add_config_dirs(folders)
        self._fixed, sweeps = _split(words, config)
        whole = compose_config(self._fixed, config)
        self.search = construct(SearchSettings, _plain(whole.search) if search is None else search, "search")
        space = self.search.space if isinstance(self.search.space, dict) else {_AUTO: _AUTO}
        self._space = {name: str(text) for name, text in (space | sweeps).items()}
        for name in self._space:
            if name.partition(".")[0].partition("@")[0] in _FIXED:
                raise BadInput(f"search.space: {name} is not searched: trials share it. Give it one value.")
        self.base = drop_unordered_stages(_run_of(whole), set(), None)
        self.settings: Settings = read_settings(self.base)
        if not any(word.startswith("measure=") for word in self._fixed) and not self._goals_are_measured:
            self._fixed.append("measure=default")  # everything there is, such as what `fits: nano33` takes
            self.base = drop_unordered_stages(self._composed([]), set(), None)
            self.settings = read_settings(self.base)
            del self._measured

    @property
    def _goals_are_measured(self) -> bool:
        try:
            goals.parse_objectives(self.search.objectives, self._measured)
            goals.parse_constraints(self.search.constraints, self._measured)
        except BadInput:
            return False
        return True

    @property
    def name(self) -> str:
        """The study's."""
        return self.search.study or self.settings.name.replace(" ", "-")

    @property
    def folder(self) -> FolderPath:
        """Where the study's files are."""
        return self.settings.outputs / "searches" / self.name

    def check(self) -> None:
        """Reads goals, fidelity and structures, for what is wrong with them; see the properties of these names."""
        _ = self.objectives, self.constraints, self.variants, self.halving
        make_pruner(self.search.pruner, self.objectives)
        if self.search.pruner and self.halving:
            raise BadInput("search.pruner and search.halving both cut trainings short. Set one of them to null.")

    @cached_property
    def objectives(self) -> tuple[goals.SearchObjective, ...]:
        """What the study is after."""
        return goals.parse_objectives(self.search.objectives, self._measured)

    @cached_property
    def constraints(self) -> tuple[goals.Constraint, ...]:
        """What a file has to keep to."""
        return goals.parse_constraints(self.search.constraints, self._measured)

    @cached_property
    def halving(self) -> SuccessiveHalving | None:
        """How long configurations are trained, where that is not to the end."""
        asked = self.search.halving
        return None if asked is None else construct(SuccessiveHalving, asked, "search.halving")

    @cached_property
    def variants(self) -> tuple[PipelineVariant, ...]:
        """Which stages may stand in which order; see `lightexp.search.pipeline_variants`."""
        chosen = {name: text for name, text in self._space.items() if is_structural(name, text)}
        return enumerate_variants(chosen, self._composed)

    def _composed(self, groups: list[str]) -> DictConfig:
        """The run's config with some groups' choices."""
        return _run_of(compose_config([*self._fixed, *groups], self._config))

    @cached_property
    def ranges(self) -> dict[str, str]:
        """The range of each setting but the structural ones, `auto` written out."""
        found: dict[str, str] = {}
        for name, text in self._space.items():
            if is_structural(name, text):
                continue
            self._refuse_replaced_stage(name, text)
            if text != _AUTO:
                found[name] = text
                continue
            # What stands before the first compressing stage is the control, which should stand still.
            stages = [f"pipeline.stages.{key}" for key, stage in self.settings.stages.items() if stage.compresses]
            for stage in stages if name == _AUTO else [name]:
                defaults = self._defaults(stage)
                if not defaults:
                    raise BadInput(f"search.space: {stage}=auto, but it has no default ranges. Name settings of it.")
                whole = {f"{stage}.{last}": r.values for last, r in defaults.items()}
                found |= {at: values for at, values in whole.items() if not isinstance(self._node(at), DictConfig)}
        for name in self.search.per_layer:
            stage, _, last = name.rpartition(".")
            if name not in found and last not in self._defaults(stage):
                raise BadInput(f"search.per_layer: {name} has no range. Give it one in search.space.")
            found.setdefault(name, self._defaults(stage)[last].values if last in self._defaults(stage) else "")
        return found

    def make_space(self, layers: Mapping[str, list[str]]) -> SearchSpace:
        """The space.

        Args:
            layers: Names of the layers that each setting of `search.per_layer` is expanded over.

        Raises:
            BadInput: If a setting does not exist, a range cannot be read, or its ends cannot be used.
        """
        found: list[Parameter] = []
        for name, text in self.ranges.items():
            path = tuple(name.split("."))
            if not any(variant.has(path) for variant in self.variants):
                raise BadInput(f"search.space: {name} is not a setting: {self.variants[0].suggest_name(path)}")
            default = self._defaults(name.rpartition(".")[0]).get(path[-1])
            strongest = default.strongest if default else None
            like = None if name in layers else self._node(name)
            paths = [(*path, layer) for layer in layers[name]] if name in layers else [path]
            found += [parse_parameter(one, text, like, strongest) for one in paths]
        if not found and len(self.variants) == 1:
            raise BadInput(
                "search.space is empty. Name a setting, such as "
                "'pipeline.stages.prune.sparsity=interval(0.5,0.98)', or set search.space=auto."
            )
        for one in found:
            self._check_ends(one)
        return SearchSpace(self.variants, tuple(found))

    def make_seed_trials(self, space: SearchSpace) -> list[SeedTrial]:
        """What is tried first."""
        return make_seed_trials(list(self.search.corners), self.base, self.settings, space)

    @property
    def workers(self) -> int:
        """How many processes: one where latency is timed, as nothing else may compute meanwhile."""
        return 1 if self._timed else self.search.workers

    @property
    def threads(self) -> int:
        """Of one process."""
        return max(1, self.settings.threads // self.workers)

    def make_trial_settings(self, config: DictConfig, rung: int | None = None) -> Settings:
        """The settings of one trial; latency is left out unless the study is after it.

        Args:
            config: The run's.
            rung: How far it is trained under successive halving. Defaults to None: to the end.
        """
        config = copy_config(config)
        config.runtime.threads = self.threads
        for name, measurement in self.settings.measure.items():
            if not self._timed and measurement.is_timing:
                config.measure[name] = None
        cut = None if rung is None or self.halving is None else self.halving.make_rung(rung)
        return replace(read_settings(config), rung=cut)

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
                **{f"search.{name}": getattr(self.search, name) for name in ("objectives", "constraints", "sampler")},
                **{f"search.{name}": value for name, value in optional.items() if value is not None},
                **{f"search.space.{p.name}": str(p) for p in space.parameters},
                "search.structures": space.labels,
            }
        )

    @cached_property
    def _measured(self) -> dict[str, goals.Direction | None]:
        found: dict[str, goals.Direction | None] = {"time/train_s": "min"}
        for measurement in self.settings.measure.values():
            found |= measurement.gives
        return found

    @property
    def _timed(self) -> bool:
        names = [o.name for o in self.objectives] + [c.name for c in self.constraints]
        return any(name.startswith("latency/") for name in names)

    def _node(self, name: str) -> Any:
        """What stands at a place of the first structure that has it."""
        path = tuple(name.split("."))
        return next((s.get_value(path) for s in self.variants if s.has(path)), None)

    def _refuse_replaced_stage(self, name: str, text: str) -> None:
        """Refuse a range for a stage that does not run because the model comes trained from a file."""
        path = tuple(name.split("."))
        if all(variant.is_replaced(path) for variant in self.variants):
            raise BadInput(
                f"search.space: the stage '{path[2]}' does not run: its place is taken by the model's file. "
                f"Received: {name}={text}. Leave this range out."
            )

    def _defaults(self, stage: str) -> Mapping[str, Range]:
        """The default ranges of the stage at a place; none where there is none."""
        target = self._node(f"{stage}._target_")
        cls = locate(str(target), stage, tuple(self.settings.plain["plugins"])) if target else None
        return cls.search if cls is not None and issubclass(cls, Stage) else {}

    def _check_ends(self, one: Parameter) -> None:
        """Checks that a range's ends are values of its setting, whatever the others are."""
        structure = next(s for s in self.variants if s.has(one.path))
        for value in one.list_end_values():
            try:
                read_settings(structure.set_values({one.path: value}))
            except BadInput as error:
                if str(error).startswith(f"{one.name}:"):  # not for what it would be beside other values
                    raise BadInput(f"search.space: {error}") from None


def _split(words: list[str], config: str) -> tuple[list[str], dict[str, str]]:
    """Overrides that stand, and those that are ranges, by setting."""
    fixed, sweeps = [], {}
    for word in words:
        try:
            override = OverridesParser.create().parse_overrides([escape_null_choices(word)])[0]
        except HydraException as error:
            raise as_bad_input(error, words, config) from None
        if override.is_sweep_override():
            name, _, text = word.partition("=")
            sweeps[name.lstrip("+")] = text
        else:
            fixed.append(word)
    return fixed, sweeps


def _run_of(config: DictConfig) -> DictConfig:
    """A composed config without `search`."""
    config = copy_config(config)
    config.pop("search", None)
    return config


def _plain(config: DictConfig) -> dict[str, Any]:
    return {str(k): v for k, v in OmegaConf.to_container(config, resolve=True).items()}  # type: ignore[union-attr]
