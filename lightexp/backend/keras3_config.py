"""Check the architecture of a Keras 3 file against allow-lists, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightexp.backend.keras_names import (
    IDLE_LAYERS,
    KERAS_3_ACTIVATIONS,
    KERAS_3_LAYERS,
    KERAS_3_MARKERS,
    KERAS_3_OPERATIONS,
    KERAS_3_PARTS,
    MODELS,
    MODULE,
)
from lightexp.core.errors import BadInput

MAX_DEPTH = 60
"""Of nested mappings and lists; Keras recurses as this module does."""
ALTERNATIVE = (
    'Where it was made, run model.export("model.tflite", format="litert") and set model.path to that; it can be '
    "quantised and measured."
)
_CLASSES = MODELS | KERAS_3_LAYERS | IDLE_LAYERS | KERAS_3_OPERATIONS | KERAS_3_PARTS | KERAS_3_MARKERS
_DROPPED = ("compile_config", "shared_object_id", "quantization_config")

Config = dict[str, Any]


def check_config(path: Path, architecture: Any) -> Config:
    """Return a copy of a Keras 3 architecture in which every name is on an allow-list.

    Args:
        path: The file, for messages.
        architecture: The JSON of `config.json`, or of the attribute `model_config` of an `.h5`.

    Returns:
        The architecture without compilation, in which every data type is float32.

    Raises:
        BadInput: If it is no Sequential or Functional model, or a name is on no list.
    """
    name = architecture.get("class_name") if isinstance(architecture, dict) else architecture
    if not isinstance(architecture, dict) or not isinstance(name, str) or name not in MODELS:
        kind = architecture.get("registered_name") if isinstance(architecture, dict) else None
        raise BadInput(
            f"{path} must hold a Sequential or Functional model. Received: {kind or name!r:.60}. {ALTERNATIVE}"
        )
    checked: Config = _check_node(path, architecture, "the model", 0)
    return checked


def _check_node(path: Path, node: Any, layer: str, depth: int) -> Any:
    """Return a checked copy of a part of the architecture.

    Args:
        path: The file.
        node: The part.
        layer: Name of the innermost layer around it.
        depth: Number of mappings and lists around it.
    """
    if depth > MAX_DEPTH:
        raise make_broken_error(path, "its architecture is nested without end")
    if isinstance(node, list):
        return [_check_node(path, item, layer, depth + 1) for item in node]
    if not isinstance(node, dict):
        return node
    if "class_name" in node:
        config = node.get("config")
        if isinstance(config, dict) and isinstance(config.get("name"), str):
            layer = config["name"]
        if node["class_name"] in ("DTypePolicy", "Policy"):  # lightexp computes in float32
            return "float32"
        if node["class_name"] == "function":
            return _require_activation(path, config, layer)
        _check_class(path, node, layer)
    checked = {}
    for key, value in node.items():
        if key in _DROPPED:
            continue
        if key.endswith("activation") and isinstance(value, str):
            _require_activation(path, value, layer)
        if key == "dtype" and isinstance(value, str) and value.endswith("float16"):
            value = "float32"
        checked[key] = _check_node(path, value, layer, depth + 1)
    return checked


def _check_class(path: Path, node: Config, layer: str) -> None:
    """Refuse a class that is on no list, or that is of another package."""
    name, module, registered = node["class_name"], node.get("module"), node.get("registered_name")
    if not isinstance(name, str) or not isinstance(node.get("config", {}), dict):
        raise make_broken_error(path, f"its architecture holds class_name: {name!r:.60}")
    is_foreign = not isinstance(module, str | None) or (module and not MODULE.fullmatch(module))
    if name not in _CLASSES or is_foreign or registered not in (None, name):
        shown = registered if isinstance(registered, str) else name
        raise make_layer_error(path, layer, shown, "which is not among those that lightexp knows, and no code is run")


def _require_activation(path: Path, name: Any, layer: str) -> str:
    if not isinstance(name, str) or name not in KERAS_3_ACTIVATIONS:
        shown = name if isinstance(name, str) else "function"
        raise make_layer_error(path, layer, shown, "an activation that lightexp does not know, and no code is run")
    return name


def make_layer_error(path: Path, layer: str, kind: str, problem: str) -> BadInput:
    """Make the error for a layer that cannot be rebuilt.

    Args:
        path: The file.
        layer: Name of the layer.
        kind: Its class, or what of it cannot be rebuilt.
        problem: Why it cannot.
    """
    return BadInput(f"{path} holds {kind[:60]!r} in layer {layer[:60]!r}, {problem}. {ALTERNATIVE}")


def make_broken_error(path: Path, problem: str) -> BadInput:
    """Make the error for a damaged file."""
    return BadInput(f"{path} is broken ({problem}). Get or save it again.")
