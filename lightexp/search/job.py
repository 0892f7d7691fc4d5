"""From a command line to a checked study: everything that can be refused before data or TensorFlow are loaded."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path as FolderPath
from typing import Annotated, Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from lightexp.core.config import Count, Index, Positive, check, locate
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Range, Stage
from lightexp.measure.latency import Latency
from lightexp.runner.compose import composed, explained, look_in
from lightexp.runner.plan import check_order
from lightexp.runner.settings import Settings, read
from lightexp.search import goals
from lightexp.search.space import (
    STRUCTURE,
    Parameter,
    Path,
    Space,
    Structure,
    configured,
    known,
    parameter,
    plain,
    shown,
    swept,
    without,
)
from lightexp.stages.quantize import Quantize

CONFIG = "search"
_FIXED = ("dataset", "measure", "tracking", "plugins", "runtime", "paths", "seed", "search", "hydra", "experiment")
_GROUPS = ("model", "pipeline")
_MOST = 64  # structures: each is composed before the study starts
_AUTO = "auto"


@dataclass(frozen=True)
class Search:
    """`search`: how a study runs.

    Attributes:
        study: Its name. Defaults to None: of the model and the data set.
        trials: Of the whole study, whoever runs them. Defaults to 50.
        timeout: Seconds after which this command starts no trial. Defaults to None.
        trial_timeout: Seconds after which a trial has failed. Defaults to None.
        workers: Processes. Defaults to 1.
        storage: None is a journal file in the study's folder; else another journal file or a PostgreSQL URL.
        resume: Whether a study that has begun is gone on with. Defaults to True.
        sampler: How Optuna proposes. Defaults to `tpe`.
        objectives: See `lightexp.search.goals`.
        constraints: See `lightexp.search.goals`.
        space: A range for each dotted setting; `auto` for the default ranges of all stages, or of one.
        per_layer: Of settings that hold a value for each layer, the pattern of the layers' names.
        corners: What is tried first: `recipe` (the config as it stands), `int8` (nothing but int8 quantisation) and
            `strongest` (every setting where it compresses most).
        max_failures: Trials in a row that may fail. Defaults to 10.
    """

    study: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w.@=+-]+$")] | None = None
    trials: Count = 50
    timeout: Positive | None = None
    trial_timeout: Positive | None = None
    workers: Count = 1
    storage: str | None = None
    resume: bool = True
    sampler: Literal["tpe", "nsga2", "random", "qmc", "grid"] = "tpe"
    objectives: list[str] = field(default_factory=list)
    constraints: list[Any] = field(default_factory=list)
    space: dict[str, Any] | Literal["auto"] = field(default_factory=dict)
    per_layer: dict[str, str] = field(default_factory=dict)
    corners: list[Literal["recipe", "int8", "strongest"]] = field(default_factory=list)
    max_failures: Index = 10


class Job:
    """A study as the command line describes it.

    Attributes:
        words: Overrides, some of them sweeps.
        folders: The user's own config folders.
        search: How it runs.
        base: The config without `search`, as it stands.
    """

    def __init__(self, words: list[str], folders: list[str]) -> None:
        """Reads the command line.

        Raises:
            BadInput: If it cannot be composed, or a setting of `search` is wrong.
        """
        self.words, self.folders = words, folders
        look_in(folders)
        self._fixed, sweeps = _split(words)
        config = composed(self._fixed, CONFIG)
        OmegaConf.set_struct(config, False)
        self.search = check(Search, plain(config.pop("search")), "search")
        space = self.search.space if isinstance(self.search.space, dict) else {_AUTO: _AUTO}
        for name in [*sweeps, *space]:
            if name.partition(".")[0].partition("@")[0] in _FIXED:
                raise BadInput(f"search.space: {name} is not searched: trials share it. Give it one value.")
        self.base = without(config, set(), None)
        self._space: dict[str, Any] = space | sweeps
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self.settings: Settings = read(self.base)

    @property
    def name(self) -> str:
        """The study's."""
        return self.search.study or self.settings.name.replace(" ", "-")

    def check(self) -> None:
        """Reads goals and structures, for what is wrong with them; see `objectives`, `constraints`, `structures`."""
        _ = self.objectives, self.constraints, self.structures

    @property
    def folder(self) -> FolderPath:
        """Where the study's files are."""
        return self.settings.outputs / "searches" / self.name

    @cached_property
    def known(self) -> dict[str, goals.Direction | None]:
        """Every figure that is measured, with its direction; those of a user's measurement only where it says them."""
        found: dict[str, goals.Direction | None] = {"time/train_s": "min"}
        for measurement in self.settings.measure.values():
            found |= measurement.gives
        return found

    @cached_property
    def objectives(self) -> tuple[goals.Objective, ...]:
        """What the study is after."""
        return goals.objectives(self.search.objectives, self.known)

    @cached_property
    def constraints(self) -> tuple[goals.Constraint, ...]:
        """What a file has to keep to."""
        return goals.constraints(self.search.constraints, self.known)

    @cached_property
    def structures(self) -> tuple[Structure, ...]:
        """The structures whose stages can stand in their order.

        Raises:
            BadInput: If none can, or there are too many.
        """
        axes = {name: _choices(name, str(text)) for name, text in self._space.items() if _is_structural(name, text)}
        if (count := math.prod(map(len, axes.values()))) > _MOST:
            raise BadInput(f"search.space: {count} structures are too many, {_MOST} is the most. Leave some out.")
        found: dict[str, Structure] = {}
        refused: BadInput | None = None
        for chosen in itertools.product(*axes.values()):
            try:
                structure = self._structure(dict(zip(axes, chosen, strict=True)))
                check_order(read(structure.config))
            except BadInput as error:
                refused = refused or error
                continue
            found.setdefault(str(plain(structure.config)), structure)
        if not found:
            raise refused or BadInput("search.space has no structure.")
        return tuple(found.values())

    def space(self, layers: Mapping[str, list[str]]) -> Space:
        """The space.

        Args:
            layers: Names of the layers that each setting of `search.per_layer` is expanded over.

        Raises:
            BadInput: If a setting does not exist, a range cannot be read, or its ends cannot be used.
        """
        parameters: dict[Path, Parameter] = {}
        for name, text in self._values().items():
            path = tuple(name.split("."))
            structure = next((s for s in self.structures if s.has(path)), None)
            if structure is None:
                raise BadInput(f"search.space: {name} is not a setting: {known(self.structures[0], path)}")
            if name in self.search.per_layer:
                made = [
                    parameter((*path, layer), text, None, self._strongest(structure, path)) for layer in layers[name]
                ]
            else:
                made = [parameter(path, text, structure.node(path), self._strongest(structure, path))]
            parameters |= {p.path: p for p in made}
        if not parameters and len(self.structures) == 1:
            raise BadInput(
                "search.space is empty. Name a setting, such as "
                "'pipeline.stages.prune.sparsity=interval(0.5,0.98)', or set search.space=auto."
            )
        space = Space(self.structures, tuple(parameters.values()))
        self._check_ends(space)
        return space

    def range_of(self, name: str) -> str:
        """The range of a setting of `search.per_layer`, as it is written."""
        return self._values()[name]

    def corners(self, space: Space) -> list[Corner]:
        """What is tried first, in order; one that cannot be run in this pipeline is left out."""
        made = {"recipe": self._recipe, "int8": self._int8, "strongest": self._strongest_of}
        found: dict[str, Corner] = {}
        for name in self.search.corners:
            with suppress(BadInput):
                corner = made[name](space)
                check_order(read(corner.config))
                found.setdefault(str(plain(corner.config)), corner)
        return list(found.values())

    @property
    def workers(self) -> int:
        """How many processes: one where latency is timed, as nothing else may compute meanwhile."""
        return 1 if self._timed else self.search.workers

    @property
    def threads(self) -> int:
        """Of one process."""
        return max(1, self.settings.threads // self.workers)

    def trial(self, config: DictConfig) -> Settings:
        """The settings of one trial; latency is left out unless the study is after it."""
        config.runtime.threads = self.threads
        for name, measurement in self.settings.measure.items():
            if not self._timed and isinstance(measurement, Latency):
                config.measure[name] = None
        return read(config)

    @property
    def _timed(self) -> bool:
        names = [o.name for o in self.objectives] + [c.name for c in self.constraints]
        return any(name.startswith("latency/") for name in names)

    def identity(self, space: Space) -> dict[str, str]:
        """What makes two studies the same, flat, as text: not how many trials, on what, or where it is kept."""
        config = {name: node for name, node in plain(self.base).items() if name not in ("runtime", "paths", "tracking")}
        search = {name: getattr(self.search, name) for name in ("objectives", "constraints", "sampler")}
        ranges = {p.name: str(p) for p in space.parameters}
        flat = dict(_flat({**config, "search": {**search, "structures": list(space.labels), "space": ranges}}, ""))
        return {name: json.dumps(value, sort_keys=True) for name, value in sorted(flat.items())}

    def _recipe(self, space: Space) -> Corner:
        same = next((s for s in space.structures if plain(s.config) == plain(self.base)), None)
        structure = same or Structure("", self.base)
        values = {p.path: structure.node(p.path) for p in space.parameters}
        return _corner("recipe", space, structure, {path: v for path, v in values.items() if v is not None})

    def _strongest_of(self, space: Space) -> Corner:
        structure = max(space.structures, key=lambda s: len(s.config.pipeline.order))
        ends = {p.path: p.strongest_end() for p in space.applying(structure)}
        values = {path: structure.node(path) if end is None else end for path, end in ends.items()}
        return _corner("strongest", space, structure, {path: v for path, v in values.items() if v is not None})

    def _int8(self, space: Space) -> Corner:
        """Every compressing stage left out but one that quantises."""
        stages = self.settings.stages
        kept = next((name for name, stage in stages.items() if isinstance(stage, Quantize)), None)
        first = [name for name, stage in stages.items() if not stage.compresses and name in self.base.pipeline.order]
        if kept is None:
            raise BadInput("the pipeline has no stage that quantises.")
        order = [*first, kept]
        config = without(self.base, set(), order)
        same = next((s for s in space.structures if list(s.config.pipeline.order) == order), None)
        path = ("pipeline", "stages", kept, "scheme")
        return _corner("int8", space, same or Structure("", config), {path: "int8"})

    def _structure(self, chosen: Mapping[str, Any]) -> Structure:
        words = [f"{name}={shown(value)}" for name, value in chosen.items()]
        grouped = tuple(w for w, name in zip(words, chosen, strict=True) if not name.startswith("pipeline."))
        if grouped not in self._composed:
            config = composed([*self._fixed, *grouped], CONFIG)
            OmegaConf.set_struct(config, False)
            del config["search"]
            self._composed[grouped] = config
        off = {name.split(".")[2] for name, v in chosen.items() if name.startswith("pipeline.stages.") and v == "off"}
        return Structure(" ".join(words), without(self._composed[grouped], off, chosen.get("pipeline.order")))

    def _values(self) -> dict[str, str]:
        """The ranges by setting, `auto` written out."""
        found: dict[str, str] = {}
        for name, text in self._space.items():
            if text != _AUTO:
                if not _is_structural(name, text):
                    found[name] = str(text)
            elif name == _AUTO:
                for key, settings in self.settings.stages.items():
                    if settings.compresses:  # what stands before is the control, which should stand still
                        found |= self._defaults(("pipeline", "stages", key))
            else:
                found |= self._defaults(tuple(name.split(".")))
        for name in self.search.per_layer:
            if name not in found:
                stage, _, last = name.rpartition(".")
                default = self._ranges(tuple(stage.split("."))).get(last)
                if default is None:
                    raise BadInput(f"search.per_layer: {name} has no range. Give it one in search.space.")
                found[name] = default.values
        return found

    def _defaults(self, path: Path) -> dict[str, str]:
        """The default ranges of a stage's fields but those that hold a value for each layer."""
        ranges, name = self._ranges(path), ".".join(path)
        if not ranges:
            raise BadInput(f"search.space: {name}=auto, but it has no default ranges. Name settings of it.")
        per_layer = {"layers"}
        return {f"{name}.{last}": r.values for last, r in ranges.items() if last not in per_layer}

    def _ranges(self, path: Path) -> Mapping[str, Range]:
        structure = next((s for s in self.structures if s.node(path) is not None), None)
        if structure is None:
            raise BadInput(f"search.space: {'.'.join(path)} is not a stage: {known(self.structures[0], path)}")
        return _search(structure, path, self.settings)

    def _strongest(self, structure: Structure, path: Path) -> Any:
        ranges = _search(structure, path[:3], self.settings)
        return ranges[path[3]].strongest if len(path) == 4 and path[3] in ranges else None

    def _check_ends(self, space: Space) -> None:
        """Checks that a range's ends are values of their settings, one by one."""
        for one in space.parameters:
            structure = next(s for s in space.structures if s.has(one.path))
            for value in one.ends():
                try:
                    read(configured(structure, {one.path: value}))
                except BadInput as error:
                    if str(error).startswith(f"{one.name}:"):  # not for what it would be beside other values
                        raise BadInput(f"search.space: {error}") from None


@dataclass(frozen=True)
class Corner:
    """A configuration that is tried before any is proposed.

    Attributes:
        name: For people.
        config: The whole of it.
        params: Those of the space's parameters that it lies on, as Optuna calls their values.
    """

    name: str
    config: DictConfig
    params: dict[str, Any]


def _corner(name: str, space: Space, structure: Structure, values: dict[Path, Any]) -> Corner:
    inside = {p.name: p.inner(values[p.path]) for p in space.applying(structure) if p.path in values}
    params = {p.name: inside[p.name] for p in space.applying(structure) if inside.get(p.name) is not None}
    exact = {p.name for p in space.applying(structure) if p.name in params and _same(p, params[p.name], values[p.path])}
    params = {k: v for k, v in params.items() if k in exact}
    if len(space.structures) > 1 and structure.label in space.labels:
        params[STRUCTURE] = structure.label
    return Corner(name, configured(structure, values), params)


def _same(one: Parameter, inner: Any, value: Any) -> bool:
    return bool(one.choices.get(inner, inner) == value)


def _search(structure: Structure, path: Path, settings: Settings) -> Mapping[str, Range]:
    """The default ranges of the stage at a place; none where there is no stage."""
    target = structure.node((*path, "_target_"))
    cls = locate(str(target), ".".join(path), tuple(settings.plain["plugins"])) if target else None
    return cls.search if cls is not None and issubclass(cls, Stage) else {}


def _split(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Overrides that stand, and those that are ranges, by setting."""
    fixed, sweeps = [], {}
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException as error:
            raise explained(error, words, CONFIG) from None
        if override.is_sweep_override():
            name, _, text = word.partition("=")
            sweeps[name.lstrip("+")] = text
        else:
            fixed.append(word)
    return fixed, sweeps


def _is_structural(name: str, text: Any) -> bool:
    group = "@" in name or name in _GROUPS or name == "pipeline.order"
    return group or (text != _AUTO and name.startswith("pipeline.stages.") and name.count(".") == 2)


def _choices(name: str, text: str) -> list[Any]:
    sweep = swept(name, text)
    if not isinstance(sweep, ChoiceSweep):
        raise BadInput(f"search.space: {name}={text} must be a choice(A, B).")
    values = [getattr(v, "text", v) for v in sweep.list]
    if name.startswith("pipeline.stages."):
        values = [{True: "on", False: "off"}.get(v, v) if isinstance(v, bool) else v for v in values]
        if set(values) != {"on", "off"}:
            raise BadInput(f"search.space: {name}={text}: write choice(on, off), or choose methods by stage@{name}.")
    return values


def _flat(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
