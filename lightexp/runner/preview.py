"""What a plan would find in the store and do to each layer, without running it."""

from __future__ import annotations

from typing import Any

from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Layer
from lightexp.core.sensitivity import SENSITIVITY_FACT, SensitivityTable
from lightexp.core.store import Store
from lightexp.core.training import Training
from lightexp.runner.plan import Node, Plan
from lightexp.runner.settings import Settings
from lightexp.stages.architecture_stage import ArchitectureStage


def preview_plan(plan: Plan, settings: Settings, data: Data) -> tuple[list[bool], list[list[tuple[str, str]]]]:
    """Looks a plan up in the store, and asks its stages about the layers of untrained models.

    Returns:
        For each stage, whether its result is in the store; and what it will do to which layer.

    Raises:
        BadInput: If a stage cannot work with the model.
    """
    from lightexp.backend import session

    session.start_tensorflow(settings.threads)
    from lightexp.backend import keras_files  # imports TensorFlow, which the session sets up first

    store = Store(settings.outputs / "store")
    found, touched = [], []
    built: Any = None
    layers, before, guessed = list[Layer](), None, ""
    for node in plan.nodes:
        model, table = node.model or settings.model, _table(node, store)
        if isinstance(node.stage, ArchitectureStage):
            built, words = node.stage.preview(built, table)
            guessed = guessed if node.stage.is_static or table else node.name
            layers = keras_files.describe_layers(built)
        else:
            if model != before:  # a user's model need not be hashable
                session.reset_graph(settings.seed)
                known_layers = model.list_layers()
                if known_layers is not None:
                    layers = known_layers
                else:
                    built = model.build(data.shape, data.classes)
                    layers = keras_files.describe_layers(built)
                guessed = ""
            words = node.stage.describe_layers(layers, table)
            if words and guessed:
                words = [("at most", f"what '{guessed}' leaves is known once it has run"), *words]
        _check_features(node, built, data)
        found.append(store.has(node.key))
        touched.append(words)
        before = model
    return found, touched


def _table(node: Node, store: Store) -> SensitivityTable | None:
    """The table of sensitivity that a stage takes from, if it is in the store."""
    entry = store.check(node.inputs[SENSITIVITY_FACT].key) if SENSITIVITY_FACT in node.inputs else None
    return SensitivityTable.of(entry.facts) if entry else None


def _check_features(node: Node, built: Any, data: Data) -> None:
    """Refuses layers that a stage's objective cannot compare, before the teacher is trained."""
    objective = node.stage.objective if isinstance(node.stage, Training) else None
    if objective is None or objective.matched is None:
        return
    from lightexp.backend.features import match_layers

    teacher = node.inputs["teacher"].model
    try:
        match_layers(built, teacher.build(data.shape, data.classes) if teacher else built, objective)
    except BadInput as error:
        raise BadInput(f"pipeline.stages.{node.name}.{error}") from None
