"""Build typed settings from a composed config, with all checks that need neither data nor TensorFlow."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, Field

from lightexp.core import secrets
from lightexp.core.config import Threads, build, construct, flatten, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.object_storage import check_url
from lightexp.core.protocols import Dataset, Measurement, Model, Stage, Task
from lightexp.core.task import DEFAULT_TASK, is_default_task
from lightexp.core.training import Rung
from lightexp.runner.inferred_task import infer_task
from lightexp.stages.train import TrainingStage
from lightexp.tracking.mirror import Tracking

FILE_STAGE = "file"
"""Name of the stage that takes a model from its file."""


@settings_dataclass
class Runtime:
    """`runtime`: number of threads; None uses every core."""

    threads: Threads | None = None


@settings_dataclass
class Paths:
    """`paths`: the folder of all outputs."""

    outputs: str = "outputs"


@settings_dataclass
class StoreSettings:
    """`store`: the address of the remote store; None for none."""

    remote: Annotated[str, AfterValidator(check_url)] | None = None


@settings_dataclass
class Pipeline:
    """`pipeline`: stages by name, their order, and the kinds of invariants that may be broken."""

    stages: dict[str, Any] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    waive: list[str] = field(default_factory=list)


@settings_dataclass
class RunConfig:
    """The groups and settings at the top of a run's config."""

    dataset: dict[str, Any]
    model: dict[str, Any]
    pipeline: dict[str, Any]
    measure: dict[str, Any]
    tracking: dict[str, Any]
    task: dict[str, Any] = field(default_factory=lambda: {"_target_": DEFAULT_TASK})
    deploy: dict[str, Any] = field(default_factory=dict)
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    runtime: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, Any] = field(default_factory=dict)
    store: dict[str, Any] = field(default_factory=dict)
    plugins: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Settings:
    """The typed and validated settings of a run.

    Attributes:
        dataset: The source of data.
        model: The architecture.
        task: What is learnt.
        stages: Stages by name, in the order in which they run.
        waive: Kinds of invariants that may be broken.
        measure: Measurements by name.
        tracking: Where the record is mirrored.
        seed: Seed of everything random except the splits.
        threads: Number of threads that may compute.
        outputs: The folder of all outputs, absolute.
        plain: The config as plain types.
        written: The same as records and files have it: with interpolations in place of the environment's texts.
        rung: Where the last training after the control stops early. Defaults to None: it runs to its end.
        is_task_inferred: Whether the task is not set, but taken from the model's file. Defaults to False.
        remote_store: Address of the remote store. Defaults to None: there is none.
    """

    dataset: Dataset
    model: Model
    task: Task
    stages: dict[str, Stage]
    waive: tuple[str, ...]
    measure: dict[str, Measurement]
    tracking: Tracking
    seed: int
    threads: int
    outputs: Path
    plain: dict[str, Any]
    written: dict[str, Any]
    rung: Rung | None = None
    is_task_inferred: bool = False
    remote_store: str | None = None

    @property
    def fidelity(self) -> str | None:
        """Name of the stage that a rung stops early; None where no stage trains after the control."""
        after = itertools.dropwhile(lambda pair: not pair[1].compresses, self.stages.items())
        return next((name for name, stage in reversed(list(after)) if isinstance(stage, TrainingStage)), None)

    @property
    def name(self) -> str:
        """Readable name: model, data set and stages."""
        model, dataset = (_read_config_name(self.plain[group]["_target_"]) for group in ("model", "dataset"))
        return f"{model} {dataset} {'-'.join(self.stages)}"


def read_settings(config: DictConfig, writes: bool = True) -> Settings:
    """Build the typed settings of a composed config.

    Args:
        config: The config.
        writes: Whether the outputs folder must be one that can be written. Defaults to True.

    Raises:
        BadInput: For the first wrong setting, with its place.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise BadInput(f"config: {str(error).splitlines()[0]}") from None
    if not isinstance(plain, dict):
        raise BadInput(f"config must be a mapping. Received: {type(plain).__name__}.")
    nodes = {
        str(name): node
        for name, node in plain.items()
        if name != "hydra" and not (name == "task" and is_default_task(node))
    }
    written = _keep_interpolations(config, nodes)
    top = construct(RunConfig, nodes, "")
    plugins = tuple(top.plugins)
    pipeline = construct(Pipeline, top.pipeline, "pipeline")
    outputs = construct(Paths, top.paths, "paths").outputs
    threads = construct(Runtime, top.runtime, "runtime").threads
    model = build(top.model, Model, "model", plugins)  # type: ignore[type-abstract]
    model, stages = _add_file_stage(model, _build_stages(pipeline, plugins))
    inferred = infer_task(top.task, model)
    if inferred:
        nodes["task"] = written["task"] = inferred
    return Settings(
        dataset=build(top.dataset, Dataset, "dataset", plugins),  # type: ignore[type-abstract]
        model=model,
        task=build(inferred or top.task, Task, "task", plugins),  # type: ignore[type-abstract]
        stages=stages,
        waive=tuple(pipeline.waive),
        measure={n: m for n, m in _build_all(top.measure, Measurement, "measure", plugins).items() if not m.is_idle},
        tracking=build(top.tracking, Tracking, "tracking", plugins),  # type: ignore[type-abstract]
        seed=top.seed,
        threads=threads or len(os.sched_getaffinity(0)),
        outputs=_check_outputs(Path(outputs).expanduser().absolute(), writes),
        plain=nodes,
        written=written,
        is_task_inferred=inferred is not None,
        remote_store=construct(StoreSettings, top.store, "store").remote,
    )


def _keep_interpolations(config: DictConfig, nodes: dict[str, Any]) -> dict[str, Any]:
    """Return the config as it is written, and hide in messages what it takes from the environment.

    Raises:
        BadInput: If a URI in it holds a secret as plain text.
    """
    raw: Any = OmegaConf.to_container(config, resolve=False)
    raw = {name: raw[name] for name in nodes}
    secrets.remember_environment({name: node for name, node in raw.items() if name != "paths"})
    for name, value in flatten(raw):
        if problem := secrets.find_secret_problem(name, str(value)):
            raise BadInput(problem)
    written: dict[str, Any] = secrets.keep_interpolations(raw, nodes)
    return written


def _build_stages(pipeline: Pipeline, plugins: tuple[str, ...]) -> dict[str, Stage]:
    repeated = sorted({name for name in pipeline.order if pipeline.order.count(name) > 1})
    if repeated:
        raise BadInput(f"pipeline.order names {repeated[0]} twice. Give the second one a name of its own.")
    for name in pipeline.stages:
        if name not in pipeline.order:
            raise BadInput(
                f"pipeline.order does not name the stage '{name}'. Received: {pipeline.order}. "
                + _suggest_order(name, [n for n in pipeline.order if n not in pipeline.stages])
            )
    stages = {name: node for name in pipeline.order if (node := pipeline.stages.get(name)) is not None}
    if not stages:
        raise BadInput(
            f"pipeline has no stage to run. Received: order={pipeline.order}. Choose one, such as pipeline=control."
        )
    return _build_all(stages, Stage, "pipeline.stages", plugins)


def _add_file_stage(model: Model, stages: dict[str, Stage]) -> tuple[Model, dict[str, Stage]]:
    """Put the stage that reads a model's file, if there is one, in place of a first training.

    Returns:
        The model in the form that the other stages need, and the stages.
    """
    first, *_ = stages
    rest = {name: stage for name, stage in stages.items() if name != first or "none" not in stage.accepts}
    adapted = model.adapt(list(rest.values()))
    file_stage = adapted.first_stage()
    if file_stage is None:
        return model, stages
    if FILE_STAGE in rest:
        raise BadInput(f"pipeline.stages.{FILE_STAGE}: with model=from_file that name is taken. Give it another.")
    return adapted, {FILE_STAGE: file_stage, **rest}


def _suggest_order(name: str, unknown: list[str]) -> str:
    """Return how to add a stage to the order, which may have misspelt its name."""
    if close := get_close_matches(name, unknown, n=1):
        return f"Did you mean '{name}' by '{close[0]}'?"
    return "Put its name where it belongs: stages run in that order."


def _check_outputs(outputs: Path, writes: bool) -> Path:
    """Return the outputs folder after checking that it is one or can be created, and that it can be written."""
    existing = next(place for place in (outputs, *outputs.parents) if os.path.lexists(place))
    if not existing.is_dir() or (writes and not os.access(existing, os.W_OK | os.X_OK)):
        reason = "cannot be written" if existing.is_dir() else "is not a folder"
        raise BadInput(f"paths.outputs: {existing} {reason}. Received: {outputs}. Set paths.outputs=FOLDER.")
    return outputs


def _build_all(nodes: Mapping[str, Any], base: type[Any], where: str, plugins: tuple[str, ...]) -> dict[str, Any]:
    return {name: build(node, base, f"{where}.{name}", plugins) for name, node in nodes.items() if node is not None}


def _read_config_name(target: str) -> str:
    """Return the name of the module that defines a class, which is also its config's name."""
    return target.split(".")[-2]
