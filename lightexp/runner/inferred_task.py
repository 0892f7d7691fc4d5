"""Take the task that a model's file is certainly made for, where the user has named none."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, cast

from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Model
from lightexp.core.task import Task, is_default_task
from lightexp.tasks.binary import Binary

_NOTE = "The model's file ends in one sigmoid: task=binary is taken."


def infer_task(node: Any, model: Model) -> dict[str, Any] | None:
    """Return the config node of the task that fits the model, if it is certain; None to take the one that is set.

    Args:
        node: The config node of the task that is set.
        model: The model.
    """
    if not is_default_task(node):
        return None
    try:
        is_binary = model.is_one_sigmoid
    except BadInput:  # a broken file, which is refused with its place when the run is planned
        return None
    target = f"{Binary.__module__}.{Binary.__qualname__}"
    return {"_target_": target, **asdict(cast("Any", Binary()))} if is_binary else None


def prepare_inferred(task: Task, data: Data) -> Data:
    """Prepare data for an inferred task, with a note on it; see `Task.prepare`.

    Raises:
        BadInput: If the data are not of two classes, or do not suit the task.
    """
    if data.classes != 2:
        count = f"{data.classes} classes" if data.classes else "numbers"
        raise BadInput(
            "model.path: the file ends in one sigmoid, which tells two classes apart. Received: "
            f"{count} in {data.name}. Take the data that the model was made for, or say task=regression if it gives "
            "numbers from 0 to 1."
        )
    prepared = task.prepare(data)
    return replace(prepared, notes=(_NOTE, *prepared.notes))
