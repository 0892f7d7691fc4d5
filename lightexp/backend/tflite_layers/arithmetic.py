"""Translate sums, products and other operators of two tensors, and reductions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lightexp.backend.tflite_layers.activations import align_constant
from lightexp.backend.tflite_layers.call import Call, Translate, add_fused_activation
from lightexp.backend.tflite_layers.layer_graph import Array, LayerGraph, Unsupported, Value

_LAYERS = {"ADD": "Add", "SUB": "Subtract", "MUL": "Multiply", "MAXIMUM": "Maximum", "MINIMUM": "Minimum"}
_REDUCTIONS = {"MEAN": "math.reduce_mean", "SUM": "math.reduce_sum", "REDUCE_MAX": "math.reduce_max"}
_GLOBAL_POOLING = {"MEAN": "GlobalAveragePooling", "REDUCE_MAX": "GlobalMaxPooling"}


def _translate_arithmetic(call: Call, graph: LayerGraph) -> Value:
    if len(call.inputs) != 2:
        raise ValueError(f"a {call.kind} of {len(call.inputs)} tensors")
    left, right = call.inputs
    if isinstance(left, Value) and isinstance(right, Value):
        output = _combine(call, graph, left, right)
    elif isinstance(left, Value):
        output = _add_constant(call, graph, left, call.get_constant(1), is_left=False)
    else:
        output = _add_constant(call, graph, call.get_value(1), call.get_constant(0), is_left=True)
    return add_fused_activation(call, graph, output) if "FusedActivationFunction" in call.options else output


def _combine(call: Call, graph: LayerGraph, left: Value, right: Value) -> Value:
    """Combine two computed values."""
    shapes = left.file_shape, right.file_shape
    try:
        target = np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"values of shapes {shapes[0]} and {shapes[1]} cannot be combined") from None
    if left.order != right.order or left.has_batch != right.has_batch:
        left, right = (_give_rank(graph, value, len(target), call.name) for value in (left, right))
    if len(left.shape) != len(right.shape):
        raise Unsupported(f"combines values of shapes {shapes[0]} and {shapes[1]}")
    shape = np.broadcast_shapes(left.shape, right.shape)
    if call.kind == "DIV":
        output = graph.add_function("math.truediv", call.name, left, shape, y=[right.layer, 0, 0])
    else:
        output = graph.add(_LAYERS[call.kind], call.name, [left, right], shape)
    return replace(output, order=left.order, has_batch=left.has_batch)


def _give_rank(graph: LayerGraph, value: Value, rank: int, name: str) -> Value:
    """Return a value with the axes in the file's order and as many as another has, by ones in front."""
    value = graph.straighten(value, name)
    return graph.reshape(value, (1,) * (rank - len(value.file_shape)) + value.file_shape, name)


def _add_constant(call: Call, graph: LayerGraph, value: Value, constant: Array, is_left: bool) -> Value:
    """Combine a value with a constant, which is not trained: by Rescaling, which computes `x * scale + offset`."""
    if constant.dtype != np.float32:
        raise Unsupported(f"has a constant of {constant.dtype}, which is quantised")
    aligned = align_constant(constant, value)
    if call.kind in ("MAXIMUM", "MINIMUM"):
        function = f"math.{call.kind.lower()}"
        output = graph.add_function(function, call.name, value, value.shape, y=_shorten(aligned))
        return replace(output, order=value.order, has_batch=value.has_batch)
    if call.kind == "DIV" and is_left:
        reciprocal = graph.add_function("math.reciprocal", f"{call.name}_reciprocal", value, value.shape)
        value = replace(reciprocal, order=value.order, has_batch=value.has_batch)
    if call.kind in ("MUL", "DIV"):
        is_divided = call.kind == "DIV" and not is_left
        settings = {"scale": _shorten(1 / aligned if is_divided else aligned)}
    elif call.kind == "SUB":
        settings = {"scale": -1.0 if is_left else 1.0, "offset": _shorten(aligned if is_left else -aligned)}
    else:
        settings = {"scale": 1.0, "offset": _shorten(aligned)}
    output = graph.add("Rescaling", call.name, [value], value.shape, **settings)
    return replace(output, order=value.order, has_batch=value.has_batch)


def _shorten(constant: Array) -> Any:
    """Return a constant as JSON types: one number, or a list that broadcasts alike."""
    if not np.isfinite(constant).all():
        raise Unsupported("combines a value with infinity or NaN")
    if constant.size and (constant == constant.flat[0]).all():
        return float(constant.flat[0])
    return constant.tolist()


def _translate_reduction(call: Call, graph: LayerGraph) -> Value:
    value = call.get_value()
    axes = sorted({value.find_axis(axis) for axis in call.get_integers(1)})
    keeps = bool(call.options["KeepDims"])
    remaining = [axis for axis in range(len(value.shape)) if axis not in axes]
    shape = tuple(1 if axis in axes else n for axis, n in enumerate(value.shape) if keeps or axis not in axes)
    order = value.order if keeps else tuple(remaining.index(axis) for axis in value.order if axis not in axes)
    if not shape:
        raise Unsupported("reduces an example to a number without axes")
    dims = len(value.shape) - 1
    if call.kind in _GLOBAL_POOLING and dims in (1, 2) and axes == list(range(dims)):
        kind = f"{_GLOBAL_POOLING[call.kind]}{dims}D"
        output = graph.add(kind, call.name, [value], shape, keepdims=keeps)
    else:
        arguments = {"axis": [axis + 1 for axis in axes], "keepdims": keeps}
        output = graph.add_function(_REDUCTIONS[call.kind], call.name, value, shape, **arguments)
    return replace(output, order=order, has_batch=value.has_batch)


TRANSLATIONS: dict[str, Translate] = {
    **dict.fromkeys([*_LAYERS, "DIV"], _translate_arithmetic),
    **dict.fromkeys(_REDUCTIONS, _translate_reduction),
}
