"""Compute what a `.tflite` computes from constants and shapes alone, for one example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lightexp.backend.tflite_layers.call import Call
from lightexp.backend.tflite_layers.layer_graph import Array, Unsupported, Value
from lightexp.backend.tflite_layers.reshaping import resolve_reshape, resolve_squeeze, resolve_strided_slice
from lightexp.core.tflite_graph import Tensor

_MAX_COMBINED = 2**24  # numbers in what two constants are combined to; shapes and scales are far smaller
_PAIRS: dict[str, Callable[[Any, Any], Any]] = {
    "ADD": np.add,
    "DIV": lambda left, right: left / right if left.dtype.kind == "f" else left // np.where(right == 0, 1, right),
    "FLOOR_DIV": lambda left, right: left // np.where(right == 0, 1, right),
    "MAXIMUM": np.maximum,
    "MINIMUM": np.minimum,
    "MUL": np.multiply,
    "SUB": np.subtract,
}
_TYPES = {"FLOAT32": np.float32, "INT32": np.int32, "INT64": np.int64}


def compute_constant(call: Call, target: Tensor) -> Array | None:
    """Return an operator's result if it depends on constants and shapes only; else None.

    Args:
        call: The operator.
        target: The tensor that it computes.

    Raises:
        ValueError: If the operator does not fit its inputs.
        Unsupported: If it is not among those that are computed here.
    """
    if call.kind == "SHAPE":
        first = call.inputs[0]
        shape = first.file_shape if isinstance(first, Value) else call.get_constant(0).shape
        return np.array(shape, _TYPES.get(target.dtype, np.int32))
    if any(isinstance(item, Value) for item in call.inputs) or not call.inputs:
        return None
    if call.kind in _PAIRS:
        left, right = call.get_constant(0), call.get_constant(1)
        if np.prod(np.broadcast_shapes(left.shape, right.shape), dtype=np.int64) > _MAX_COMBINED:
            raise ValueError(f"constants of shapes {left.shape} and {right.shape} are combined")
        return np.asarray(_PAIRS[call.kind](left, right))
    if call.kind not in _REARRANGEMENTS:
        raise Unsupported("computes with constants in a way that lightexp does not")
    return np.asarray(_REARRANGEMENTS[call.kind](call, target))


def dequantize(tensor: Tensor) -> Array:
    """Return the real values of a constant, as DEQUANTIZE computes them.

    Raises:
        Unsupported: If it is quantised in blocks.
    """
    assert tensor.data is not None
    if tensor.block or (len(tensor.scales) > 1 and tensor.dtype != "FLOAT16"):
        raise Unsupported("decodes integers with more than one scale")
    scale = np.float32(tensor.scales[0] if tensor.scales else 1)
    zero = tensor.zero_points[0] if tensor.zero_points else 0
    return (tensor.data.astype(np.float32) - np.float32(zero)) * scale


def _cast(call: Call, target: Tensor) -> Array:
    if target.dtype not in _TYPES:
        raise Unsupported(f"makes {target.dtype}")
    return call.get_constant(0).astype(_TYPES[target.dtype])


def _gather(call: Call, _: Tensor) -> Array:
    array, indices = call.get_constant(0), call.get_constant(1)
    if call.options["BatchDims"] or indices.dtype.kind not in "iu" or indices.size > _MAX_COMBINED:
        raise Unsupported("gathers batch by batch")
    if not array.ndim or np.prod(array.shape[1:], dtype=np.int64) * indices.size > _MAX_COMBINED:
        raise ValueError(f"{indices.size} indices into {array.shape}")
    return array.take(indices, axis=call.options["Axis"])


def _pack(call: Call, _: Tensor) -> Array:
    return np.stack([call.get_constant(index) for index in range(len(call.inputs))], axis=call.options["Axis"])


def _join(call: Call, _: Tensor) -> Array:
    parts = [call.get_constant(index) for index in range(len(call.inputs))]
    return np.concatenate(parts, axis=call.options["Axis"])


def _slice_strided(call: Call, _: Tensor) -> Array:
    array = call.get_constant(0)
    parts, removed = resolve_strided_slice(call, array.shape)
    return array[np.ix_(*parts)].squeeze(tuple(removed))


def _reduce_product(call: Call, _: Tensor) -> Array:
    keeps = bool(call.options["KeepDims"])
    return np.asarray(call.get_constant(0).prod(axis=call.get_integers(1), keepdims=keeps))


def _reshape(call: Call, _: Tensor) -> Array:
    array = call.get_constant(0)
    return array.reshape(resolve_reshape(call, array.shape))


def _squeeze(call: Call, _: Tensor) -> Array:
    array = call.get_constant(0)
    return array.reshape(resolve_squeeze(call, array.shape))


def _expand_dims(call: Call, _: Tensor) -> Array:
    return np.expand_dims(call.get_constant(0), call.get_integers(1))


def _transpose(call: Call, _: Tensor) -> Array:
    return call.get_constant(0).transpose(call.get_integers(1))


_REARRANGEMENTS: dict[str, Callable[[Call, Tensor], Array]] = {
    "CAST": _cast,
    "CONCATENATION": _join,
    "EXPAND_DIMS": _expand_dims,
    "GATHER": _gather,
    "PACK": _pack,
    "REDUCE_PROD": _reduce_product,
    "RESHAPE": _reshape,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _slice_strided,
    "TRANSPOSE": _transpose,
}
