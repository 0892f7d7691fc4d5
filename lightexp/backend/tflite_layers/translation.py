"""Translate the graph of a float `.tflite` into a Keras model's config and weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lightexp.backend.tflite_layers import activations, arithmetic, kernels, reshaping
from lightexp.backend.tflite_layers.call import Call, Translate
from lightexp.backend.tflite_layers.constants import compute_constant, dequantize
from lightexp.backend.tflite_layers.layer_graph import Array, LayerGraph, Shape, Unsupported, Value, make_layer_name
from lightexp.backend.tflite_layers.reshaping import OUTPUT
from lightexp.core.errors import BadInput
from lightexp.core.layout import LayoutChoice, find_layout
from lightexp.core.tflite_graph import Operator, Tensor, TFLiteGraph

_MAX_NAME = 120
_TRANSLATIONS: Mapping[str, Translate] = {
    **activations.TRANSLATIONS,
    **arithmetic.TRANSLATIONS,
    **kernels.TRANSLATIONS,
    **reshaping.TRANSLATIONS,
}


@dataclass(frozen=True)
class KerasDescription:
    """A Keras model as data.

    Attributes:
        config: What `model_from_json` takes, as JSON types.
        weights: Weights of its layers that have some, by name, in the order of `Layer.weights`.
        input_order: Axes of an example of the data in the order in which the file's input has them, such as
            `(2, 0, 1)` for a file with channels first.
    """

    config: dict[str, Any]
    weights: dict[str, list[Array]]
    input_order: Shape


def translate(
    path: Path, graph: TFLiteGraph, shape: Shape, classes: int, layout: LayoutChoice = "auto"
) -> KerasDescription:
    """Translate a file.

    Args:
        path: Path of the file, for messages.
        graph: Its graph.
        shape: Shape of an example of the data, which becomes the shape of the model's input.
        classes: Number of the model's outputs.
        layout: Order of the axes of the file's input; see `find_layout`. Defaults to `auto`.

    Raises:
        BadInput: If an operator has no equivalent among Keras' layers; if constants and shapes disagree; or if the
            file is no function of single examples.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise BadInput(
            f"{path} must have one input and one output. Received: {len(graph.inputs)} and {len(graph.outputs)}."
        )
    return _Translator(path, graph).translate(shape, classes, layout)


class _Translator:
    """Translates one file, operator by operator."""

    def __init__(self, path: Path, graph: TFLiteGraph) -> None:
        self._path, self._graph = path, graph
        self._layers = LayerGraph()
        self._values: dict[int, Value | Array] = {}
        self._followers: dict[int, list[str]] = {}
        for op in graph.ops:
            for index in op.inputs:
                self._followers.setdefault(index, []).append(op.kind)
        self._followers.setdefault(graph.outputs[0], []).append(OUTPUT)
        self._kernels = {id(op): kernel for op, kernel in graph.kernels}

    def translate(self, shape: Shape, classes: int, layout: LayoutChoice) -> KerasDescription:
        [source], [sink] = self._graph.inputs, self._graph.outputs
        order = self._match_input(shape, layout)
        value = self._layers.add_input(shape)
        self._values[source] = self._start(value, order)
        for op in self._graph.ops:
            self._add(op)
        output = self._values.get(sink)
        if not isinstance(output, Value):
            raise self._make_broken_error("its output does not depend on its input")
        if math.prod(output.shape) != classes:
            raise BadInput(f"{self._path} has outputs of shape {output.file_shape}, the data need {classes} numbers.")
        if classes == math.prod(shape) and order != tuple(range(len(order))):
            output = self._order_as_data(output, shape, order)
        output = self._layers.reshape(output, (1, classes), "output")
        config = {
            "name": "model",
            "layers": self._layers.layers,
            "input_layers": [[value.layer, 0, 0]],
            "output_layers": [[output.layer, 0, 0]],
        }
        return KerasDescription({"class_name": "Functional", "config": config}, self._layers.weights, order)

    def _order_as_data(self, output: Value, shape: Shape, order: Shape) -> Value:
        """Return an autoencoder's outputs, which are in the order of the file's input, in the order of the data."""
        output = self._layers.reshape(output, (1, *(shape[axis] for axis in order)), "output_as_input")
        return replace(output, order=tuple(output.order[order.index(axis)] for axis in range(len(order))))

    def _match_input(self, shape: Shape, choice: LayoutChoice) -> Shape:
        """Return the axes of an example in the order in which the file's input has them."""
        tensor = self._graph.tensors[self._graph.inputs[0]]
        if tensor.dtype != "FLOAT32":
            raise self._refuse(f"its input {_quote(tensor)} is {tensor.dtype}: it is quantised")
        layout = find_layout(shape, tensor.shape[1:], choice) if tensor.shape[:1] == (1,) else None
        if layout is not None:
            axes = tuple(range(len(shape)))
            return (axes[-1], *axes[:-1]) if layout.channels_first else axes
        raise BadInput(
            f"{self._path} takes inputs of shape {tensor.shape}, the data have examples of {shape}. Take the data set "
            "that the model was made for; a file that is trained has a batch of 1, or an open one."
        )

    def _start(self, value: Value, order: Shape) -> Value:
        """Return the model's input as the file has it."""
        expected = self._graph.tensors[self._graph.inputs[0]].shape
        value = replace(value, order=order)
        return value if value.file_shape == expected else self._layers.reshape(value, expected, "input")

    def _add(self, op: Operator) -> None:
        """Translate an operator: note its result, or add its layers."""
        target = self._graph.tensors[op.outputs[0]] if op.outputs else None
        if target is None or -1 in op.outputs:
            raise self._make_broken_error(f"a {op.kind} has no output")
        call = self._make_call(op)
        try:
            with np.errstate(all="ignore"):  # weights that are not finite are refused before training
                results = self._compute(op, call)
        except Unsupported as reason:
            raise self._refuse(f"its {op.kind} {_quote(target)} {reason}") from None
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, ZeroDivisionError) as error:
            raise self._make_broken_error(f"its {op.kind} {_quote(target)} has {error}") from None
        if len(results) != len(op.outputs):
            raise self._make_broken_error(f"its {op.kind} {_quote(target)} has {len(op.outputs)} outputs")
        for index, result in zip(op.outputs, results, strict=True):
            self._check_shape(op, index, result)
            self._values[index] = result

    def _make_call(self, op: Operator) -> Call:
        kernel, output = self._kernels.get(id(op)), self._graph.tensors[op.outputs[0]]
        name = make_layer_name(self._graph.title(op, kernel) if kernel else output.name)
        if not kernel:  # the names of layers with kernels, to which settings refer, stay free
            name = f"{name}_{op.kind.lower()}"
        followers = tuple(self._followers.get(op.outputs[0], ()))
        inputs = tuple(self._read(index) for index in op.inputs)
        return Call(op.kind, inputs, op.options, name, followers, len(op.outputs))

    def _read(self, index: int) -> Value | Array | None:
        if index == -1:
            return None
        if index in self._values:
            return self._values[index]
        tensor = self._graph.tensors[index]
        if tensor.data is None:
            raise self._make_broken_error(f"nothing computes {_quote(tensor)}")
        return tensor.data

    def _compute(self, op: Operator, call: Call) -> list[Value | Array]:
        if op.kind == "DEQUANTIZE":
            if isinstance(call.inputs[0], Value):
                raise Unsupported("decodes integers that the file computes: it is quantised")
            tensor = self._graph.tensors[op.inputs[0]]
            if call.inputs[0] is None or tensor.data is None:
                raise ValueError("no constant to decode")
            return [dequantize(tensor)]
        constant = compute_constant(call, self._graph.tensors[op.outputs[0]])
        if constant is not None:
            return [constant]
        if op.kind not in _TRANSLATIONS:
            raise Unsupported("has no equivalent among the layers that lightexp trains")
        result = _TRANSLATIONS[op.kind](call, self._layers)
        return [*result] if isinstance(result, list) else [result]

    def _check_shape(self, op: Operator, index: int, result: Value | Array) -> None:
        """Check a result against the shape that the file states, in which open lengths are 1."""
        stated, tensor = self._graph.tensors[index].shape, self._graph.tensors[index]
        shape = result.file_shape if isinstance(result, Value) else result.shape
        agrees = len(stated) == len(shape) and all(n in (1, length) for n, length in zip(stated, shape, strict=True))
        if stated and not agrees:
            raise self._make_broken_error(f"its {op.kind} {_quote(tensor)} makes {shape}, and the file states {stated}")

    def _refuse(self, reason: str) -> BadInput:
        return BadInput(
            f"{self._path} cannot be trained: {reason}. Stages after training work on the file as it is: "
            "pipeline=quantize, encode or sensitivity; or take it as a teacher (objective.teacher=FILE)."
        )

    def _make_broken_error(self, reason: str) -> BadInput:
        return BadInput(f"{self._path} is broken: {reason}. Make it again.")


def _quote(tensor: Tensor) -> str:
    """Return a tensor's name for messages; converters join the names of all that they fuse."""
    name = tensor.name if len(tensor.name) <= _MAX_NAME else f"{tensor.name[:_MAX_NAME]}..."
    return repr(name)
