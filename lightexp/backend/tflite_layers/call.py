"""An operator with what it is called with, as the modules that translate it receive it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lightexp.backend.tflite_layers.layer_graph import Array, LayerGraph, Unsupported, Value
from lightexp.core.tflite_graph import Options


@dataclass(frozen=True)
class Call:
    """An operator of the file.

    Attributes:
        kind: Its builtin name.
        inputs: Values and constants; None for an omitted optional one.
        options: Its options.
        name: Name for its layer.
        followers: Kinds of the operators that read its output; `OUTPUT` for the model's output.
        outputs: Number of its outputs.
    """

    kind: str
    inputs: tuple[Value | Array | None, ...]
    options: Options
    name: str
    followers: tuple[str, ...]
    outputs: int

    def get_value(self, index: int = 0) -> Value:
        """Return an input that must be computed.

        Raises:
            Unsupported: If it is a constant, or omitted.
        """
        value = self.inputs[index] if index < len(self.inputs) else None
        if not isinstance(value, Value):
            raise Unsupported(f"reads a constant as input {index}")
        return value

    def find_constant(self, index: int) -> Array | None:
        """Return an input that must be constant; None if it is omitted.

        Raises:
            Unsupported: If it is computed.
        """
        constant = self.inputs[index] if index < len(self.inputs) else None
        if isinstance(constant, Value):
            raise Unsupported(f"computes its input {index}, which must be constant")
        return constant

    def get_constant(self, index: int) -> Array:
        """Return an input that must be constant; raises as `find_constant`, and ValueError if it is omitted."""
        constant = self.find_constant(index)
        if constant is None:
            raise ValueError(f"a {self.kind} without its input {index}")
        return constant

    def get_integers(self, index: int) -> tuple[int, ...]:
        """Return a constant vector of integers, such as axes; raises as `get_constant`."""
        constant = self.get_constant(index)
        if constant.dtype.kind not in "iu" or constant.ndim > 1:
            raise ValueError(f"a {self.kind} whose input {index} is no list of integers")
        return tuple(np.atleast_1d(constant).tolist())


Translate = Callable[[Call, LayerGraph], Value | list[Value]]
"""Adds the layers of an operator and returns its output, or its outputs."""

_RELU, _RELU_N1_TO_1, _RELU6, _TANH = 1, 2, 3, 4


def add_fused_activation(call: Call, graph: LayerGraph, value: Value) -> Value:
    """Add the activation that an operator computes at its end, if any.

    Raises:
        Unsupported: If Keras has no such activation.
    """
    code = call.options["FusedActivationFunction"]
    name = f"{call.name}_activation"
    if not code:
        return value
    if code in (_RELU, _RELU6):
        limits: dict[str, Any] = {"max_value": 6.0} if code == _RELU6 else {}
        activated = graph.add("ReLU", name, [value], value.shape, **limits)
    elif code == _TANH:
        activated = graph.add("Activation", name, [value], value.shape, activation="tanh")
    elif code == _RELU_N1_TO_1:
        limits = {"clip_value_min": -1.0, "clip_value_max": 1.0}
        activated = graph.add_function("clip_by_value", name, value, value.shape, **limits)
    else:
        raise Unsupported(f"ends in the activation {code}")
    return replace(activated, order=value.order, has_batch=value.has_batch)


def split_relu(call: Call) -> tuple[str, Call]:
    """Return the activation that Keras computes in the layer itself, and the call without it."""
    if call.options["FusedActivationFunction"] == _RELU:
        return "relu", replace(call, options={**call.options, "FusedActivationFunction": 0})
    return "linear", call
