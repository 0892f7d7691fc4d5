"""Translate activations and other functions of single numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from lightexp.backend.tflite_layers.call import Call, Translate
from lightexp.backend.tflite_layers.layer_graph import LayerGraph, Unsupported, Value

_LAYERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ELU": ("ELU", {}),
    "LOGISTIC": ("Activation", {"activation": "sigmoid"}),
    "RELU": ("ReLU", {}),
    "RELU6": ("ReLU", {"max_value": 6.0}),
    "RELU_0_TO_1": ("ReLU", {"max_value": 1.0}),
    "TANH": ("Activation", {"activation": "tanh"}),
}
_FUNCTIONS = {
    "ABS": "math.abs",
    "EXP": "math.exp",
    "NEG": "math.negative",
    "RSQRT": "math.rsqrt",
    "SQRT": "math.sqrt",
    "SQUARE": "math.square",
}


def _add_layer(call: Call, graph: LayerGraph, class_name: str, settings: Mapping[str, Any]) -> Value:
    """Add a layer that treats all numbers alike, whatever the order of axes."""
    value = call.get_value()
    output = graph.add(class_name, call.name, [value], value.shape, **settings)
    return replace(output, order=value.order, has_batch=value.has_batch)


def _add_function(call: Call, graph: LayerGraph, function: str, arguments: Mapping[str, Any]) -> Value:
    value = call.get_value()
    output = graph.add_function(function, call.name, value, value.shape, **arguments)
    return replace(output, order=value.order, has_batch=value.has_batch)


def _translate_leaky_relu(call: Call, graph: LayerGraph) -> Value:
    return _add_layer(call, graph, "LeakyReLU", {"alpha": float(call.options["Alpha"])})


def _translate_gelu(call: Call, graph: LayerGraph) -> Value:
    if call.options["Approximate"]:
        return _add_function(call, graph, "nn.gelu", {"approximate": True})
    return _add_layer(call, graph, "Activation", {"activation": "gelu"})


def _translate_hard_swish(call: Call, graph: LayerGraph) -> Value:
    """Add x * relu6(x + 3) / 6, for which Keras has no activation; the converter finds the operator again."""
    value = call.get_value()
    steps: list[tuple[str, str, dict[str, Any]]] = [
        ("Rescaling", "shift", {"scale": 1.0, "offset": 3.0}),
        ("ReLU", "relu6", {"max_value": 6.0}),
        ("Rescaling", "scale", {"scale": 1 / 6}),
    ]
    gate = value
    for class_name, suffix, settings in steps:
        gate = graph.add(class_name, f"{call.name}_{suffix}", [gate], value.shape, **settings)
    output = graph.add("Multiply", call.name, [value, gate], value.shape)
    return replace(output, order=value.order, has_batch=value.has_batch)


def _translate_prelu(call: Call, graph: LayerGraph) -> Value:
    value, slopes = call.get_value(), call.get_constant(1)
    if slopes.dtype != np.float32:
        raise Unsupported(f"has slopes of {slopes.dtype}, which are quantised")
    aligned = align_constant(slopes, value)
    shared = [axis + 1 for axis, length in enumerate(aligned.shape) if length == 1 < value.shape[axis]]
    output = graph.add("PReLU", call.name, [value], value.shape, [aligned], shared_axes=shared or None)
    return replace(output, order=value.order, has_batch=value.has_batch)


def _translate_softmax(call: Call, graph: LayerGraph) -> Value:
    value = call.get_value()
    beta = float(call.options["Beta"]) or 1.0
    if beta != 1.0:
        scaled = graph.add("Rescaling", f"{call.name}_scale", [value], value.shape, scale=beta)
        value = replace(scaled, order=value.order, has_batch=value.has_batch)
    output = graph.add("Softmax", call.name, [value], value.shape, axis=value.find_axis(-1) + 1)
    return replace(output, order=value.order, has_batch=value.has_batch)


def _translate_log_softmax(call: Call, graph: LayerGraph) -> Value:
    return _add_function(call, graph, "nn.log_softmax", {"axis": call.get_value().find_axis(-1) + 1})


def align_constant(constant: Any, value: Value) -> Any:
    """Return a constant that is combined with a value, with as many axes as Keras' tensor has without the batch.

    Raises:
        ValueError: If their shapes do not fit.
        Unsupported: If the constant makes the value larger, or differs between the examples of a batch.
    """
    rank = len(value.file_shape)
    if constant.ndim > rank:
        raise Unsupported(f"combines a constant of shape {constant.shape} with a value of shape {value.file_shape}")
    expanded = constant.reshape((1,) * (rank - constant.ndim) + constant.shape)
    if np.broadcast_shapes(expanded.shape, value.file_shape) != value.file_shape:
        raise Unsupported(f"combines a constant of shape {constant.shape} with a value of shape {value.file_shape}")
    if value.has_batch:
        expanded = expanded[0]
    return expanded.transpose(np.argsort(value.order))


TRANSLATIONS: dict[str, Translate] = {
    **{kind: partial(_add_layer, class_name=name, settings=settings) for kind, (name, settings) in _LAYERS.items()},
    **{kind: partial(_add_function, function=name, arguments={}) for kind, name in _FUNCTIONS.items()},
    "GELU": _translate_gelu,
    "HARD_SWISH": _translate_hard_swish,
    "LEAKY_RELU": _translate_leaky_relu,
    "LOG_SOFTMAX": _translate_log_softmax,
    "PRELU": _translate_prelu,
    "SOFTMAX": _translate_softmax,
}
