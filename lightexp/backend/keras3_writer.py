"""Write a model of legacy Keras as a file of Keras 3; runs in a separate process.

Only `sandbox.run_sandboxed` imports this module.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.backend.keras3_process import compute_keras_outputs, keras
from lightexp.core.artifact import WEIGHTS
from lightexp.core.errors import BadInput

Config = dict[str, Any]

_FUNCTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "__operators__.add": ("add", ("y",)),
    "clip_by_value": ("clip", ("clip_value_min", "clip_value_max")),
    "compat.v1.nn.relu6": ("relu6", ()),
    "concat": ("concatenate", ("axis",)),
    "linalg.matmul": ("matmul", ("b",)),
    "math.abs": ("abs", ()),
    "math.add": ("add", ("y",)),
    "math.divide": ("divide", ("y",)),
    "math.exp": ("exp", ()),
    "math.log": ("log", ()),
    "math.maximum": ("maximum", ("y",)),
    "math.minimum": ("minimum", ("y",)),
    "math.multiply": ("multiply", ("y",)),
    "math.negative": ("negative", ()),
    "math.pow": ("power", ("y",)),
    "math.reciprocal": ("reciprocal", ()),
    "math.reduce_max": ("max", ("axis", "keepdims")),
    "math.reduce_mean": ("mean", ("axis", "keepdims")),
    "math.reduce_min": ("min", ("axis", "keepdims")),
    "math.reduce_sum": ("sum", ("axis", "keepdims")),
    "math.rsqrt": ("rsqrt", ()),
    "math.sqrt": ("sqrt", ()),
    "math.square": ("square", ()),
    "math.subtract": ("subtract", ("y",)),
    "math.truediv": ("true_divide", ("y",)),
    "nn.bias_add": ("add", ("bias",)),
    "nn.gelu": ("gelu", ("approximate",)),
    "nn.leaky_relu": ("leaky_relu", ("alpha",)),
    "nn.log_softmax": ("log_softmax", ()),
    "nn.relu": ("relu", ()),
    "nn.relu6": ("relu6", ()),
    "nn.softmax": ("softmax", ("axis",)),
    "reshape": ("reshape", ("shape",)),
}
"""By a function of TensorFlow: the same in `keras.ops`, and the names of its further arguments, in that order."""
_OPERATION_NAMES = {"absolute", "get_item", *(function for function, _ in _FUNCTIONS.values())}
"""What Keras 3 names operations, with a number from the second on; all names of a model must differ."""
_RENAMED = {"LeakyReLU": {"alpha": "negative_slope"}}
_PARTS = {"constraint": "constraints", "initializer": "initializers", "regularizer": "regularizers"}


def write_keras_file(folder: Path, inputs: NDArray[np.float32], out: str) -> NDArray[np.float32]:
    """Write a `.keras` file, load it again and return the outputs that it gives.

    Args:
        folder: A model that `keras_files.save_model` has written.
        inputs: Examples, `(n, *shape)`.
        out: The file.

    Raises:
        BadInput: If Keras 3 has no such layer or function.
    """
    architecture = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))
    model, layers = _build_model(architecture["config"])
    with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
        weights = iter([arrays[name] for name in sorted(arrays.files)])
        for layer in layers:
            layer.set_weights([next(weights) for _ in layer.weights])
    model.save(out)
    return compute_keras_outputs(Path(out), inputs)


def _build_model(config: Config) -> tuple[Any, list[Any]]:
    """Build a flat Sequential or Functional model; return it, and its layers in the file's order."""
    layers: dict[str, Any] = {}
    results: dict[tuple[str, int], Any] = {}
    pending: list[tuple[Config, int, Any]] = []
    has_functions = any("function" in entry["config"] for entry in config["layers"])
    start, previous = None, ""
    for entry in config["layers"]:
        name = entry["config"]["name"]
        if entry["class_name"] == "InputLayer":
            _, *shape = entry["config"]["batch_input_shape"]
            start = results[name, 0] = keras.Input(shape, name=name, dtype=entry["config"]["dtype"])
        else:
            is_taken = has_functions and re.sub(r"_\d+$", "", name) in _OPERATION_NAMES
            new_name = f"{name}_layer" if is_taken else name
            layers[name] = _make_layer(entry, name=new_name) if "function" not in entry["config"] else None
            calls = entry.get("inbound_nodes", [[[previous, 0, 0, {}]]])
            pending += [(entry, number, call) for number, call in enumerate(calls)]
        previous = name
    while pending:
        ready = [(entry, number, call) for entry, number, call in pending if _is_ready(call, results)]
        if not ready:
            raise BadInput("its layers call each other in a circle")
        for entry, number, call in ready:
            name = entry["config"]["name"]
            results[name, number] = _call(entry, layers[name], call, results)
        pending = [item for item in pending if (item[0]["config"]["name"], item[1]) not in results]
    ((name, number, _),) = config.get("output_layers", [[previous, 0, 0]])
    return keras.Model(start, results[name, number], name="model"), [layer for layer in layers.values() if layer]


def _is_reference(value: Any) -> bool:
    """Return whether an argument in a config of legacy Keras is a tensor: a layer's name, a call and an index."""
    return isinstance(value, list) and len(value) in (3, 4) and isinstance(value[0], str) and isinstance(value[1], int)


def _is_ready(call: Any, results: dict[tuple[str, int], Any]) -> bool:
    """Return whether all tensors that a call takes exist."""
    arguments = call if isinstance(call[0], list) else [call]
    arguments = [*arguments, *(value for argument in arguments for value in argument[3].values())]
    named = [argument for argument in arguments if _is_reference(argument) and argument[0] != "_CONSTANT_VALUE"]
    return all((argument[0], argument[1]) in results for argument in named)


def _call(entry: Config, layer: Any, call: Any, results: dict[tuple[str, int], Any]) -> Any:
    """Call a layer, or apply a function of TensorFlow."""

    def resolve(value: Any) -> Any:
        if not _is_reference(value):
            return value
        if value[0] == "_CONSTANT_VALUE":
            return np.asarray(value[2], np.float32) if isinstance(value[2], list) else value[2]
        result = results[value[0], value[1]]
        return result[value[2]] if isinstance(result, list | tuple) else result

    arguments = call if isinstance(call[0], list) else [call]
    tensors = [resolve(argument) for argument in arguments]
    kwargs = {key: resolve(value) for key, value in arguments[0][3].items() if value is not None}
    if layer is None:
        return _apply_function(entry, tensors if isinstance(call[0], list) and len(call) > 1 else tensors[0], kwargs)
    kwargs = {key: value for key, value in kwargs.items() if key == "training"}
    return layer(tensors if len(tensors) > 1 else tensors[0], **kwargs)


def _apply_function(entry: Config, first: Any, kwargs: Config) -> Any:
    name = entry["config"]["function"]
    kwargs.pop("name", None)
    if name == "__operators__.getitem":
        return first[tuple(_read_key(item) for item in kwargs["slice_spec"])]
    if name not in _FUNCTIONS or set(kwargs) - set(_FUNCTIONS[name][1]):
        raise _make_error(entry, name)
    function, order = _FUNCTIONS[name]
    values = [kwargs[key] for key in order if key in kwargs]
    if function in ("add", "divide", "maximum", "minimum", "multiply", "power", "subtract", "true_divide"):
        values = [np.asarray(value, np.float32) if isinstance(value, list) else value for value in values]
    return getattr(keras.ops, function)(first, *values)


def _read_key(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    return ... if item.get("class_name") == "__ellipsis__" else slice(item["start"], item["stop"], item["step"])


def _make_layer(entry: Config, **changes: Any) -> Any:
    """Make a layer of Keras 3 from the settings of legacy Keras, of which it takes those that it has.

    Args:
        entry: The layer's class and settings.
        changes: Settings with other values.
    """
    kind = entry["class_name"]
    layer_class = getattr(keras.layers, kind, None)
    if layer_class is None:
        raise _make_error(entry, kind)
    renamed = _RENAMED.get(kind, {})
    accepted = set(inspect.signature(layer_class).parameters) | {"name", "trainable"}
    config = {renamed.get(key, key): value for key, value in (entry["config"] | changes).items()}
    arguments = {key: _make_setting(key, value) for key, value in config.items() if key in accepted and key != "dtype"}
    return layer_class(**arguments)


def _make_setting(key: str, value: Any) -> Any:
    if not isinstance(value, dict):
        # Legacy Keras normalises over a list of one axis.
        return value[0] if key == "axis" and isinstance(value, list) and len(value) == 1 else value
    if module := _PARTS.get(key.rpartition("_")[2]):
        part_class: Callable[..., Any] = getattr(getattr(keras, module), value["class_name"])
        accepted = inspect.signature(part_class).parameters
        return part_class(**{name: item for name, item in value["config"].items() if name in accepted})
    return _make_layer(value)


def _make_error(entry: Config, kind: str) -> BadInput:
    name = entry["config"]["name"]
    return BadInput(f"layer {name} is {kind}, which Keras 3 does not have. Use --keras2 or --saved-model.")
