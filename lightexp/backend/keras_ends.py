"""Read the input and the output of a Keras file's model from its config, without building the model."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightexp.backend.foreign_keras import extract_architecture, is_keras_3
from lightexp.backend.keras3_config import Config
from lightexp.backend.keras3_graph import read_graph
from lightexp.core.errors import BadInput
from lightexp.core.model_files import find_model_problem


@dataclass(frozen=True)
class ModelEnds:
    """What a Keras file says of its model's input and output.

    Attributes:
        input_shape: Shape of the examples that it takes, None where it is open; None where it is not known.
        is_one_sigmoid: Whether the output is certainly one sigmoid.
    """

    input_shape: tuple[int | None, ...] | None = None
    is_one_sigmoid: bool = False


def read_ends(path: Path, trust: bool, max_gb: float | None = None) -> ModelEnds:
    """Return what a Keras file says of its model's input and output; nothing for a SavedModel.

    Args:
        path: As in `foreign_keras.check_file`.
        trust: As in `foreign_keras.check_file`.
        max_gb: As in `foreign_keras.check_file`.

    Raises:
        BadInput: As `foreign_keras.check_file`.
    """
    if problem := find_model_problem(path, trust):
        raise BadInput(problem)
    if path.is_dir():
        return ModelEnds()
    with tempfile.TemporaryDirectory() as folder:
        architecture = extract_architecture(path, Path(folder), max_gb)
        try:
            is_one_sigmoid = _is_one_sigmoid(architecture)
        except (AttributeError, IndexError, KeyError, RecursionError, TypeError):
            is_one_sigmoid = False  # the architecture is broken, which those refuse who read it
        if is_keras_3(Path(folder)):
            return ModelEnds(read_graph(path, architecture).shape, is_one_sigmoid)
    shape = _find_input_shape(architecture)
    return ModelEnds(tuple(shape[1:]) if isinstance(shape, list) else None, is_one_sigmoid)


def _find_input_shape(node: Any) -> Any:
    """Return the first input shape of a config, batch first; None if it holds none."""
    if isinstance(node, dict):
        own = node.get("batch_input_shape") or node.get("batch_shape")
        return own or next(filter(None, map(_find_input_shape, node.values())), None)
    return next(filter(None, map(_find_input_shape, node)), None) if isinstance(node, list) else None


def _is_one_sigmoid(model: Config) -> bool:
    """Return whether the last layer of a model's config, or of the model in its place, is one unit with a sigmoid."""
    config = model["config"]
    if model["class_name"] == "Dense":
        return bool(config["units"] == 1 and _name_function(config["activation"]) == "sigmoid")
    layers = config.get("layers") if isinstance(config, dict) else None
    if not layers:
        return False
    if "output_layers" not in config:  # a Sequential
        return _is_one_sigmoid(layers[-1])
    outputs = _flatten(config["output_layers"])
    named = [layer for layer in layers if layer["config"].get("name", layer.get("name")) in outputs]
    return len(named) == 1 and _is_one_sigmoid(named[0])


def _flatten(node: Any) -> list[Any]:
    """Return the values within lists and mappings."""
    if isinstance(node, dict):
        node = list(node.values())
    return [value for item in node for value in _flatten(item)] if isinstance(node, list) else [node]


def _name_function(activation: Any) -> Any:
    """Return an activation's name; Keras 3 may write it as a mapping."""
    return activation.get("config") if isinstance(activation, dict) else activation
