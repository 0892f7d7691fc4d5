"""Check the architecture of a Keras 2 file against allow-lists, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightexp.backend.keras3_config import MAX_DEPTH, Config
from lightexp.backend.keras_names import (
    ACTIVATIONS,
    IDLE_LAYERS,
    LAYER_PARTS,
    LAYERS,
    MODELS,
    MODULE,
    OLD_NAMES,
    OPERATORS,
)
from lightexp.core.errors import BadInput


def check_config(path: Path, architecture: Any) -> Config:
    """Return a copy of a Keras 2 architecture in which every name is on an allow-list.

    Args:
        path: The file, for messages.
        architecture: The JSON of `config.json`, or of the attribute `model_config` of an `.h5`.

    Raises:
        BadInput: If it is no Sequential or Functional model, or a name is on no list, or no text.
    """
    name = architecture.get("class_name") if isinstance(architecture, dict) else architecture
    if not isinstance(architecture, dict) or not isinstance(name, str) or name not in MODELS:
        raise BadInput(f"{path} must hold a Sequential or Functional model. Received: {name!r:.60}.")
    checked: Config = _check_names(path, architecture, "the model")
    return checked


def _check_names(path: Path, node: Any, layer: str, depth: int = 0) -> Any:
    """Return a copy of a part of a config in which every name is on an allow-list.

    The copy has the plain form that Keras resolves among its own objects only.

    Args:
        path: The file, for messages.
        node: The part.
        layer: Name of the innermost layer around it.
        depth: Number of mappings and lists around it. Defaults to 0.

    Raises:
        BadInput: If a name is on no list, or no text.
    """
    if depth > MAX_DEPTH:
        raise BadInput(f"{path} is broken (its architecture is nested without end). Get or save it again.")
    if isinstance(node, list):
        return [_check_names(path, item, layer, depth + 1) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: value for key, value in node.items() if key not in ("build_config", "compile_config")}
    if "class_name" in node:
        module, name = node.pop("module", None), _require_name(path, "class_name", node["class_name"])
        name = OLD_NAMES.get(name, name)
        registered = node.pop("registered_name", None)
        if not isinstance(node.get("config", {}), dict | list):
            raise _make_type_error(path, "config", node["config"])
        config = node.get("config")
        if isinstance(config, dict) and isinstance(config.get("name"), str):
            layer = config["name"]
        if name not in MODELS | LAYERS | IDLE_LAYERS | LAYER_PARTS or (module and not MODULE.fullmatch(str(module))):
            raise _make_unknown_name_error(path, str(registered or name), layer)
        if name == "Policy":  # a policy of data types; lightexp computes in float32
            return "float32"
        node["class_name"] = name
    for key, value in node.items():
        if key == "function" and _require_name(path, key, value) not in OPERATORS:
            raise _make_unknown_name_error(path, value, layer)
        if key.endswith("activation") and isinstance(value, str) and value not in ACTIVATIONS:
            raise _make_unknown_name_error(path, value, layer)
    return {key: _check_names(path, value, layer, depth + 1) for key, value in node.items()}


def _require_name(path: Path, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _make_type_error(path, key, value)
    return value


def _make_type_error(path: Path, key: str, value: Any) -> BadInput:
    return BadInput(f"{path} is broken (its architecture holds {key}: {value!r:.60}). Get or save it again.")


def _make_unknown_name_error(path: Path, name: str, layer: str) -> BadInput:
    return BadInput(
        f"{path} holds {name[:60]!r} in layer {layer[:60]!r}, which is not among those that lightexp knows, and code "
        "from a file is never run. Convert the model to a float .tflite and set model.path to that; it can be "
        "quantised and measured."
    )
