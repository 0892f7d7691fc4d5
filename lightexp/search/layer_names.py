"""Layer names: the layers that each setting of `search.per_layer` has a value for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from lightexp.core import exceptions
from lightexp.core.errors import BadInput, LightexpError, RunFailed
from lightexp.core.protocols import Layer, Model, Stage
from lightexp.core.tflite_graph import extract_layer_names
from lightexp.execution.process import ParentConnection, WorkerDied, WorkerProcess
from lightexp.runner.plan import Plan
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.search.ranges import parse_parameter
from lightexp.search.study_spec import StudySpec
from lightexp.stages.architecture_stage import ArchitectureStage


@dataclass(frozen=True)
class _StageModel:
    """The model that a stage finds.

    Attributes:
        built: The untrained tf_keras model; None for a `.tflite`.
        layers: Its layers, by name.
    """

    built: Any
    layers: dict[str, Layer]


def find_layer_names(spec: StudySpec) -> dict[str, list[str]]:
    """Return the layers of each setting of `search.per_layer`; see `find_layer_names_in_process`.

    A Keras model is built in a worker process, since TensorFlow takes seconds and memory that the process which
    supervises a study does without.
    """
    if not spec.search.per_layer:
        return {}
    if not spec.settings.model.trainable:
        return find_layer_names_in_process(spec)
    worker = WorkerProcess("lightexp.search.layer_names")
    try:
        reply = worker.call(spec.arguments).content
    except WorkerDied as error:
        raise RunFailed(f"search.per_layer: the model could not be built: {error}.") from None
    finally:
        worker.kill()
    if "refused" in reply:
        raise BadInput(reply["refused"])
    if "failed" in reply:
        raise RunFailed(reply["failed"])
    layers: dict[str, list[str]] = reply["layers"]
    return layers


def find_layer_names_in_process(spec: StudySpec) -> dict[str, list[str]]:
    """Return the layers of each setting of `search.per_layer`, in this process.

    Args:
        spec: The study's specification.

    Returns:
        For each setting, the names of the layers that match its pattern and that its stage accepts a value for. Of
        layers that share one value, the first.

    Raises:
        BadInput: If a setting does not hold a value for each layer, or its pattern matches no layer.
    """
    plan, data = Runner(SilentReporter()).plan(spec.settings)
    models = _list_stage_models(plan, spec.settings.model)
    names = {}
    for setting, pattern in spec.search.per_layer.items():
        stage_name, field, stage = _find_stage(spec, setting)
        model = _build(models[stage_name], data.shape, data.outputs, spec)
        value = parse_parameter(tuple(setting.split(".")), spec.ranges[setting], None).list_end_values()[0]
        accepted = [
            layer
            for layer in model.layers
            if fnmatchcase(layer, pattern) and _accepts(stage, field, layer, value, model)
        ]
        names[setting] = _drop_followers(accepted, stage, model)
        if not names[setting]:
            known = ", ".join(model.layers)
            raise BadInput(f"search.per_layer: '{pattern}' matches no layer that {setting} takes. These are: {known}.")
    return names


def _list_stage_models(plan: Plan, first: Model) -> dict[str, Model]:
    """Return the architecture that each stage finds, by the stage's name."""
    models: dict[str, Model] = {}
    before = first
    for node in plan.nodes:
        after = node.model or first
        models[node.name] = before if isinstance(node.stage, ArchitectureStage) else after
        before = after
    return models


def _find_stage(spec: StudySpec, setting: str) -> tuple[str, str, Stage]:
    """Return the name of a setting's stage, the name of its field, and the stage."""
    path = setting.split(".")
    stage = spec.settings.stages.get(path[2]) if len(path) == 4 and path[:2] == ["pipeline", "stages"] else None
    if stage is None or not isinstance(getattr(stage, path[3], None), dict):
        raise BadInput(f"search.per_layer: {setting} is not a setting that holds a value for each layer.")
    return path[2], path[3], stage


def _build(model: Model, shape: tuple[int, ...], classes: int, spec: StudySpec) -> _StageModel:
    layers = model.list_layers()
    if layers is not None:
        return _StageModel(None, _name_layers(layers))
    from lightexp.backend import session

    session.start_tensorflow(spec.settings.threads)
    from lightexp.backend import keras_files  # imports TensorFlow, which the session configures first

    session.reset_graph(spec.settings.seed)
    built = model.build(shape, classes)
    return _StageModel(built, _name_layers(keras_files.describe_layers(built)))


def _name_layers(layers: Sequence[Layer]) -> dict[str, Layer]:
    return {extract_layer_names(layer.name)[-1]: layer for layer in layers}


def _accepts(stage: Stage, field: str, layer: str, value: Any, model: _StageModel) -> bool:
    """Return whether a stage accepts a value for one layer.

    Raises:
        BadInput: If it accepts no value for any layer.
    """
    try:
        changed = replace(stage, **{field: {layer: value}})  # type: ignore[type-var]
    except ValueError as error:
        raise BadInput(f"search.per_layer: {error}") from None
    try:
        if isinstance(changed, ArchitectureStage):
            changed.preview(model.built)
        else:
            changed.describe_layers(list(model.layers.values()))
    except BadInput:
        return False
    return True


def _drop_followers(accepted: list[str], stage: Stage, model: _StageModel) -> list[str]:
    """Leave out layers that take the value of an earlier layer, with which they are coupled."""
    groups = stage.coupled_layers(model.built) if isinstance(stage, ArchitectureStage) else []
    followers = {layer for group in groups for layer in [name for name in accepted if name in group][1:]}
    return [layer for layer in accepted if layer not in followers]


def main() -> None:
    """Answer requests of `find_layer_names` until the parent has gone."""
    parent = ParentConnection()
    while (request := parent.receive()) is not None:
        try:
            parent.reply({"layers": find_layer_names_in_process(StudySpec(**request.content))})
        except BadInput as error:
            parent.reply({"refused": str(error)})
        except LightexpError as error:
            parent.reply({"failed": str(error)})
        except Exception as error:  # a plugin's code or a library may raise anything
            parent.reply({"failed": str(exceptions.summarize_exception(error))})


if __name__ == "__main__":
    main()
