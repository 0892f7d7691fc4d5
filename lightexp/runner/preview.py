"""Preview a plan: what each stage will do to each layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightexp.core import memmap
from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Layer, Model
from lightexp.core.sensitivity import SENSITIVITY_FACT, SensitivityTable
from lightexp.core.store import Store
from lightexp.core.streamed_array import Rows
from lightexp.core.training import Training
from lightexp.runner.plan import Node, Plan
from lightexp.runner.settings import Settings
from lightexp.stages.architecture_stage import ArchitectureStage


def preview_plan(plan: Plan, settings: Settings, data: Data) -> list[list[tuple[str, str]]]:
    """Let a plan's stages describe what they do to the layers of untrained models.

    Args:
        plan: The plan.
        settings: Settings of the run.
        data: The data set.

    Returns:
        For each stage, pairs of layer name and description.

    Raises:
        BadInput: If a stage cannot work with the model.
    """
    from lightexp.backend import session

    session.start_tensorflow(settings.threads)
    store = Store(settings.outputs / "store")
    preview = _ModelPreview(settings, data)
    descriptions = []
    for node in plan.nodes:
        descriptions.append(preview.apply(node, _read_table(node, store)))
        _check_features(node, preview.built, data)
    return descriptions


class _ModelPreview:
    """The untrained model and its layers at a point of the pipeline.

    Attributes:
        built: The untrained Keras model; None for a `.tflite`.
    """

    def __init__(self, settings: Settings, data: Data) -> None:
        self.built: Any = None
        self._settings, self._data = settings, data
        self._layers: list[Layer] = []
        self._model: Model | None = None
        self._undetermined = ""  # name of the stage whose result is known only once it has run

    def apply(self, node: Node, table: SensitivityTable | None) -> list[tuple[str, str]]:
        """Go on to the model after a stage, and return what the stage does to each layer."""
        from lightexp.backend import keras_files  # imports TensorFlow, which has to be started first

        model = node.model or self._settings.model
        before, self._model = self._model, model
        if isinstance(node.stage, ArchitectureStage):
            self.built, descriptions = node.stage.preview(self.built, table)
            if not node.stage.is_static and table is None:
                self._undetermined = node.name
            self._layers = keras_files.describe_layers(self.built)
            return descriptions
        if model != before:  # a plugin's model need not be hashable
            self._build(model)
        descriptions = node.stage.describe_model(self.built, self._layers, table)
        if descriptions and self._undetermined:
            note = ("at most", f"what '{self._undetermined}' leaves is known once it has run")
            return [note, *descriptions]
        return descriptions

    def _build(self, model: Model) -> None:
        from lightexp.backend import keras_files, session
        from lightexp.backend.kernels import require_steps

        session.reset_graph(self._settings.seed)
        self._undetermined = ""
        layers = model.list_layers()
        if layers is None:
            self.built = model.build(self._data.shape, self._data.outputs)
            layers = keras_files.describe_layers(self.built)
            _check_embeddings(self.built, self._data)
            for layer in self.built.layers:
                require_steps(layer)
        self._layers = layers


def _check_embeddings(built: Any, data: Data) -> None:
    """Check that an embedding behind the model's input gets the whole numbers that it has rows for.

    Raises:
        BadInput: If the inputs are scaled, or name rows that it lacks.
    """
    for layer in built.layers:
        if type(layer).__name__ != "Embedding" or layer.input is not built.inputs[0]:
            continue
        top = max(_find_largest(split.x) for split in data.splits.values() if len(split))
        if top >= layer.input_dim:
            raise BadInput(f"{layer.name} has {layer.input_dim} rows, from 0, and the data's largest number is {top}.")
        if np.any(np.asarray(data.scale) != 1) or np.any(np.asarray(data.offset) != 0):
            largest = 255 if data.train.x.dtype == np.uint8 else 65_535
            raise BadInput(
                f"{layer.name} looks rows up by whole numbers, and the data's are scaled. Set "
                f"dataset.scaling.range=[0,{largest}], and no mean or std."
            )


def _find_largest(x: Rows) -> int:
    return max(int(memmap.read_chunk(x, chunk).max()) for chunk in memmap.iterate_chunks(x))


def _read_table(node: Node, store: Store) -> SensitivityTable | None:
    """Return the sensitivity table that a stage uses, if it is in the store."""
    entry = store.check(node.inputs[SENSITIVITY_FACT].key) if SENSITIVITY_FACT in node.inputs else None
    return SensitivityTable.find(entry.facts) if entry else None


def _check_features(node: Node, built: Any, data: Data) -> None:
    """Check that a stage's objective can compare the layers it names, before the teacher is trained.

    Raises:
        BadInput: If it cannot.
    """
    objective = node.stage.objective if isinstance(node.stage, Training) else None
    if objective is None or objective.matched is None:
        return
    from lightexp.backend.features import match_layers

    teacher = node.inputs["teacher"].model
    try:
        match_layers(built, teacher.build(data.shape, data.outputs) if teacher else built, objective)
    except BadInput as error:
        raise BadInput(f"pipeline.stages.{node.name}.{error}") from None
