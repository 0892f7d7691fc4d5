"""Names of the layers that a setting of `search.per_layer` is expanded over, found in a process of its own.

Building a model takes TensorFlow, which the process that watches over a study is to do without.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from lightexp.core.errors import BadInput
from lightexp.core.protocols import Layer, Model, Stage
from lightexp.runner.run import Runner
from lightexp.runner.watch import Silent
from lightexp.search.job import Job
from lightexp.search.ranges import parameter


def names(job: Job) -> dict[str, list[str]]:
    """The layers of each setting of `search.per_layer`, by its pattern; only those that its stage takes a value for.

    Raises:
        BadInput: If a setting holds no values for layers, or its pattern matches none.
    """
    if not job.search.per_layer:
        return {}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        return apart.submit(_names, job.words, job.folders).result()


def _names(words: list[str], folders: list[str]) -> dict[str, list[str]]:
    job = Job(words, folders)
    plan, data = Runner(Silent()).plan(job.settings)
    models = {node.name: node.model or job.settings.model for node in plan.nodes}
    found = {}
    for name, pattern in job.search.per_layer.items():
        path = tuple(name.split("."))
        if len(path) != 4 or path[2] not in models:
            raise BadInput(f"search.per_layer: {name} is not a setting of a stage of this pipeline.")
        stage = job.settings.stages[path[2]]
        if not isinstance(getattr(stage, path[3], None), dict):
            raise BadInput(f"search.per_layer: {name} holds no value for each layer.")
        value = parameter(path, job.ranges[name], None).ends()[0]
        layers = _layers(models[path[2]], data.shape, data.classes, job)
        found[name] = [layer.name for layer in layers if fnmatchcase(layer.name, pattern)]
        found[name] = [one for one in found[name] if _takes(stage, path[3], one, value, layers)]
        if not found[name]:
            known = ", ".join(layer.name for layer in layers)
            raise BadInput(f"search.per_layer: '{pattern}' matches no layer that it can be set for: {known}.")
    return found


def _layers(model: Model, shape: tuple[int, ...], classes: int, job: Job) -> list[Layer]:
    from lightexp.backend import session

    session.start(job.settings.threads)
    from lightexp.backend import keras_files  # imports TensorFlow, which the session sets up first

    session.fresh(job.settings.seed)
    return keras_files.describe(model.build(shape, classes)) if model.trainable else []


def _takes(stage: Stage, field: str, layer: str, value: Any, layers: list[Layer]) -> bool:
    """Whether a stage takes a value for one layer."""
    try:
        replace(stage, **{field: {layer: value}}).touches(layers)  # type: ignore[type-var]
    except BadInput:
        return False
    return True
