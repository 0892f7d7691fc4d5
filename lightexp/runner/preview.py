"""What a plan would find in the store and do to each layer, without running it."""

from __future__ import annotations

from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Layer, Model
from lightexp.core.store import Store
from lightexp.core.training import Training
from lightexp.models.from_file import FromFile
from lightexp.runner.plan import Node, Plan
from lightexp.runner.settings import Settings


def preview(plan: Plan, settings: Settings, data: Data) -> tuple[list[bool], list[list[tuple[str, str]]]]:
    """Looks a plan up in the store, and asks its stages about the layers of untrained models.

    Returns:
        For each stage, whether its result is in the store; and what it will do to which layer.

    Raises:
        BadInput: If a stage cannot work with the model.
    """
    from lightexp.backend import session

    session.start(settings.threads)
    from lightexp.backend import keras_files  # imports TensorFlow, which the session sets up first

    store = Store(settings.outputs / "store")
    found, touched, described = [], [], list[tuple[Model, list[Layer]]]()
    for node in plan.nodes:
        model = node.model or settings.model
        if not described or described[-1][0] != model:  # a user's model need not be hashable
            session.fresh(settings.seed)
            if isinstance(model, FromFile) and model.is_tflite:
                layers = model.layers()
            else:
                layers = keras_files.describe(model.build(data.shape, data.classes))
            described.append((model, layers))
        _check_features(node, model, data)
        found.append(store.has(node.key))
        touched.append(node.stage.touches(described[-1][1]))
    return found, touched


def _check_features(node: Node, model: Model, data: Data) -> None:
    """Refuses layers that a stage's objective cannot compare, before the teacher is trained."""
    objective = node.stage.objective if isinstance(node.stage, Training) else None
    if objective is None or objective.matched is None:
        return
    from lightexp.backend.features import pairs

    sizes = data.shape, data.classes
    teacher = node.inputs["teacher"].model or model
    try:
        pairs(model.build(*sizes), teacher.build(*sizes), objective)
    except BadInput as error:
        raise BadInput(f"pipeline.stages.{node.name}.{error}") from None
