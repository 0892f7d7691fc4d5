"""Operations between layers of Keras 3, as layers of legacy Keras or as TensorFlow functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightexp.backend.keras3_graph import LayerSpec
from lightexp.backend.keras_names import ACTIVATIONS
from lightexp.backend.session import import_keras, import_tensorflow

_DIFFERENT = frozenset({"hard_sigmoid"})
"""Activations that are another function in legacy Keras."""
_ACTIVATIONS = {
    "Elu": "elu",
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
    "LogSoftmax": "log_softmax",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
}
_MERGES = {"Add": "Add", "Multiply": "Multiply", "Subtract": "Subtract", "Maximum": "Maximum", "Minimum": "Minimum"}
_BINARY = {
    "Add": "add",
    "Divide": "divide",
    "Maximum": "maximum",
    "Minimum": "minimum",
    "Multiply": "multiply",
    "Power": "pow",
    "Subtract": "subtract",
    "TrueDivide": "divide",
}
_UNARY = {
    "Absolute": "abs",
    "Exp": "exp",
    "Log": "log",
    "Rsqrt": "rsqrt",
    "Sqrt": "sqrt",
    "Square": "square",
}
_REDUCTIONS = {"Max": "reduce_max", "Mean": "reduce_mean", "Min": "reduce_min", "Sum": "reduce_sum"}


def is_simple_activation(activation: Any) -> bool:
    """Return whether legacy Keras has the same activation by the same name."""
    return isinstance(activation, str) and activation in ACTIVATIONS - _DIFFERENT


def apply_activation(activation: str, x: Any, name: str) -> Any:
    """Apply an activation of Keras 3 after a layer.

    Args:
        activation: Its name.
        x: The layer's output.
        name: What the names of new layers begin with.

    Raises:
        NotImplementedError: If there is no such function.
    """
    layers = import_keras().layers
    if is_simple_activation(activation):
        return layers.Activation(activation, name=f"{name}_{activation}")(x)
    if activation == "log_softmax":
        return import_tensorflow().nn.log_softmax(x)
    if activation not in ("hard_sigmoid", "hard_silu", "hard_swish"):
        raise NotImplementedError(f"the activation {activation}")
    gate = layers.ReLU(6.0, name=f"{name}_relu6")(layers.Rescaling(1.0, 3.0, name=f"{name}_shift")(x))
    gate = layers.Rescaling(1 / 6, name=f"{name}_sixth")(gate)
    return gate if activation == "hard_sigmoid" else layers.Multiply(name=f"{name}_gate")([x, gate])


def apply_operation(spec: LayerSpec, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Apply an operation of Keras 3.

    Args:
        spec: The operation.
        args: Arguments: symbolic tensors, numbers and markers of arrays and slices.
        kwargs: Named arguments.

    Returns:
        The result, a symbolic tensor.

    Raises:
        NotImplementedError: If an argument has a value that is not supported.
    """
    if extra := {key for key in kwargs if key not in ("constant_values", "x1", "x2", "x")}:
        raise NotImplementedError(f"with the argument {min(extra)}")
    args = [_read_constant(value) for value in [*args, *(kwargs[key] for key in ("x", "x1", "x2") if key in kwargs)]]
    if spec.kind == "Matmul":
        return _multiply_matrices(*args)
    if spec.kind in _BINARY:
        return _apply_binary(spec, *args)
    if spec.kind == "Concatenate":
        return import_keras().layers.Concatenate(spec.config.get("axis", -1), name=spec.name)(args[0])
    if spec.kind == "GetItem":
        return args[0][_read_key(args[1])]
    (x,) = args
    return _apply_unary(spec, x, kwargs.get("constant_values"))


def _multiply_matrices(first: Any, second: Any) -> Any:
    if not all(hasattr(x, "shape") and not isinstance(x, np.ndarray) and len(x.shape) > 2 for x in (first, second)):
        raise NotImplementedError("of other than two batches of matrices")
    return import_tensorflow().matmul(first, second)


def _apply_binary(spec: LayerSpec, first: Any, second: Any) -> Any:
    layers, tf = import_keras().layers, import_tensorflow()
    kind = "Divide" if spec.kind == "TrueDivide" else spec.kind
    tensors = [value for value in (first, second) if hasattr(value, "shape") and not isinstance(value, np.ndarray)]
    if len(tensors) == 2:
        if kind in _MERGES and len(first.shape) == len(second.shape):
            return getattr(layers, _MERGES[kind])(name=spec.name)([first, second])
        return getattr(tf.math, _BINARY[kind])(first, second)
    (x,) = tensors
    number = second if x is first else first
    if isinstance(number, int | float):
        if kind in ("Add", "Subtract"):
            scale = -1.0 if kind == "Subtract" and x is second else 1.0
            offset = -number if kind == "Subtract" and x is first else number
            return layers.Rescaling(scale, float(offset), name=spec.name)(x)
        if kind == "Multiply" or (kind == "Divide" and x is first and number):
            return layers.Rescaling(float(number if kind == "Multiply" else 1 / number), name=spec.name)(x)
    first, second = (v if v is x else np.asarray(v, np.float32) for v in (first, second))
    return getattr(tf.math, _BINARY[kind])(first, second)


def _apply_unary(spec: LayerSpec, x: Any, constant: Any) -> Any:
    layers, tf, kind, config = import_keras().layers, import_tensorflow(), spec.kind, spec.config
    if kind in _ACTIVATIONS:
        if kind == "Elu" and config.get("alpha", 1.0) != 1.0:
            return layers.ELU(config["alpha"], name=spec.name)(x)
        if kind == "LogSoftmax" and config.get("axis", -1) != -1:
            raise NotImplementedError(f"over axis {config['axis']}")
        return apply_activation(_ACTIVATIONS[kind], x, spec.name)
    if kind in _UNARY:
        return getattr(tf.math, _UNARY[kind])(x)
    if kind in _REDUCTIONS:
        return _reduce(spec, x)
    if kind == "Relu":
        return layers.ReLU(name=spec.name)(x)
    if kind == "Relu6":
        return layers.ReLU(6.0, name=spec.name)(x)
    if kind == "LeakyRelu":
        return layers.LeakyReLU(config["negative_slope"], name=spec.name)(x)
    if kind == "Softmax":
        return layers.Softmax(config.get("axis", -1), name=spec.name)(x)
    if kind == "Gelu":
        return tf.nn.gelu(x, approximate=bool(config.get("approximate", True)))
    if kind == "Negative":
        return layers.Rescaling(-1.0, name=spec.name)(x)
    if kind == "Clip":
        return tf.clip_by_value(x, float(config["x_min"]), float(config["x_max"]))
    if kind == "Cast":
        if config["dtype"] not in ("bfloat16", "float16", "float32", "float64"):
            raise NotImplementedError(f"to {config['dtype']}")
        return x
    return _change_shape(spec, x, constant)


def _reduce(spec: LayerSpec, x: Any) -> Any:
    axis, keeps = spec.config.get("axis"), bool(spec.config.get("keepdims"))
    axes = sorted(number % len(x.shape) for number in ([axis] if isinstance(axis, int) else axis or ()))
    pools = {"Mean": "GlobalAveragePooling2D", "Max": "GlobalMaxPooling2D"}
    if spec.kind in pools and axes == [1, 2] and len(x.shape) == 4:
        return getattr(import_keras().layers, pools[spec.kind])(keepdims=keeps, name=spec.name)(x)
    if not axes or 0 in axes:
        raise NotImplementedError("over the examples of a batch")
    return getattr(import_tensorflow(), _REDUCTIONS[spec.kind])(x, axis=axes, keepdims=keeps)


def _change_shape(spec: LayerSpec, x: Any, constant: Any) -> Any:
    layers, config = import_keras().layers, spec.config
    if spec.kind == "Reshape":
        return layers.Reshape(_without_batch(config["newshape"], x.shape), name=spec.name)(x)
    if spec.kind == "Transpose":
        axes = config["axes"] or range(len(x.shape))[::-1]
        if axes[0] != 0:
            raise NotImplementedError("of the batch")
        return layers.Permute(list(axes[1:]), name=spec.name)(x)
    if spec.kind == "Pad":
        (batch, *widths) = config["pad_width"]
        if any(batch) or constant or config.get("mode") != "constant" or len(widths) not in (2, 3):
            raise NotImplementedError(f"with {config['pad_width']}, {config.get('mode')}, {constant or 0}")
        if any(widths[-1]):
            raise NotImplementedError("of the channels")
        if len(widths) == 3:
            return layers.ZeroPadding2D(widths[:2], name=spec.name)(x)
        return layers.ZeroPadding1D(widths[0], name=spec.name)(x)
    rank = len(x.shape) + (spec.kind == "ExpandDims")
    axes = config["axis"] if isinstance(config["axis"], list) else [config["axis"]]
    axes = [number % rank for number in axes]
    if 0 in axes:
        raise NotImplementedError("of the batch")
    shape = list(x.shape)
    if spec.kind == "ExpandDims":
        shape.insert(axes[0], 1)
    else:
        shape = [length for number, length in enumerate(shape) if number not in axes]
    return layers.Reshape(shape[1:], name=spec.name)(x)


def _without_batch(shape: Sequence[int | None], old: Any) -> list[int]:
    """Return the shape of an example, where the new shape of a batch keeps the number of examples."""
    first, *rest = shape
    sizes = [-1 if size is None else size for size in rest]
    known = np.prod([size for size in old[1:] if size])
    if first not in (-1, None):
        raise NotImplementedError(f"to {list(shape)}, with a batch of its own")
    if -1 not in sizes and np.prod(sizes) != known:
        raise NotImplementedError(f"to {list(shape)}, which mixes examples")
    return sizes


def _read_constant(value: Any) -> Any:
    """Return an argument, in which a marker of an array is the array."""
    if isinstance(value, dict) and value.get("class_name") in ("__numpy__", "__tensor__"):
        return np.asarray(value["config"]["value"], np.float32)
    return value


def _read_key(key: Any) -> tuple[Any, ...]:
    """Return the key of `x[key]` from its markers."""
    items: list[Any] = []
    for item in key if isinstance(key, list) else [key]:
        if isinstance(item, dict) and item.get("class_name") == "__slice__":
            items.append(slice(item["config"]["start"], item["config"]["stop"], item["config"]["step"]))
        elif isinstance(item, dict) and item.get("class_name") == "__ellipsis__":
            items.append(...)
        elif isinstance(item, int):
            items.append(item)
        else:
            raise NotImplementedError("with such a key")
    if not items or isinstance(items[0], int) or (isinstance(items[0], slice) and items[0] != slice(None)):
        raise NotImplementedError("of the batch")
    return tuple(items)
