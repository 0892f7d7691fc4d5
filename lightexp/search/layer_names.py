"""Names of the layers that a setting of `search.per_layer` is expanded over."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from lightexp.core.errors import BadInput
from lightexp.core.protocols import Layer, Model, Stage
from lightexp.core.tflite_graph import extract_layer_names
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.search.ranges import parse_parameter
from lightexp.search.study_spec import StudySpec
from lightexp.stages.architecture_stage import ArchitectureStage


def find_layer_names(spec: StudySpec) -> dict[str, list[str]]:
    """The layers of each setting of `search.per_layer`, by its pattern; only those that its stage takes a value for.

    Raises:
        BadInput: If a setting holds no values for layers, or its pattern matches none.
    """
    if not spec.search.per_layer:
        return {}
    if not spec.settings.model.trainable:
        return find_layer_names_in_process(spec)
    # Building a model takes TensorFlow, which the process that watches over a study does without.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        return apart.submit(_apart, spec.arguments).result()


def _apart(order: dict[str, Any]) -> dict[str, list[str]]:
    return find_layer_names_in_process(StudySpec(**order))


def find_layer_names_in_process(spec: StudySpec) -> dict[str, list[str]]:
    plan, data = Runner(SilentReporter()).plan(spec.settings)
    models, before = dict[str, Model](), spec.settings.model
    for node in plan.nodes:
        after = node.model or spec.settings.model
        models[node.name] = before if isinstance(node.stage, ArchitectureStage) else after
        before = after
    found = {}
    for name, pattern in spec.search.per_layer.items():
        *_, owner, field = path = name.split(".")
        stage = spec.settings.stages.get(owner)
        if path[:2] != ["pipeline", "stages"] or not isinstance(getattr(stage, field, None), dict):
            raise BadInput(f"search.per_layer: {name} is not a setting that holds a value for each layer.")
        assert stage is not None
        value = parse_parameter(tuple(path), spec.ranges[name], None).list_end_values()[0]
        built, layers = _layers(models[owner], data.shape, data.classes, spec)
        known = {extract_layer_names(layer.name)[-1]: layer for layer in layers}
        able = [n for n in known if fnmatchcase(n, pattern) and _takes(stage, field, n, value, built, layers)]
        groups = stage.coupled_layers(built) if isinstance(stage, ArchitectureStage) else []
        follow = {n for group in groups for n in [m for m in able if m in group][1:]}  # the first one's value is theirs
        found[name] = [n for n in able if n not in follow]
        if not found[name]:
            raise BadInput(
                f"search.per_layer: '{pattern}' matches no layer that {name} takes. These are: {', '.join(known)}."
            )
    return found


def _layers(model: Model, shape: tuple[int, ...], classes: int, spec: StudySpec) -> tuple[Any, list[Layer]]:
    """The model, untrained (None for a .tflite), and its layers."""
    layers = model.list_layers()
    if layers is not None:
        return None, layers
    from lightexp.backend import session

    session.start_tensorflow(spec.settings.threads)
    from lightexp.backend import keras_files  # imports TensorFlow, which the session sets up first

    session.reset_graph(spec.settings.seed)
    built = model.build(shape, classes)
    return built, keras_files.describe_layers(built)


def _takes(stage: Stage, field: str, layer: str, value: Any, built: Any, layers: list[Layer]) -> bool:
    """Whether a stage takes a value for one layer."""
    try:
        one = replace(stage, **{field: {layer: value}})  # type: ignore[type-var]
    except ValueError as error:  # it takes none at all
        raise BadInput(f"search.per_layer: {error}") from None
    try:
        if isinstance(one, ArchitectureStage):
            one.preview(built)
        else:
            one.describe_layers(layers)
    except BadInput:
        return False
    return True
