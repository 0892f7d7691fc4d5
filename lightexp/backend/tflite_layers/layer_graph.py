"""The description of a Keras model under construction: layers, weights, and the values between them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]
_UNSAFE = re.compile(r"[^A-Za-z0-9]+")
_MAX_NAME = 80
_KERNEL_NAME = re.compile("conv|depthwise|matmul|linear|dense", re.IGNORECASE)
_TORCH_MODULE = re.compile(r"(?:\w+\.)+[A-Z][A-Za-z0-9]*_(\w+)")  # `torch.nn.modules.conv.Conv2d_conv1`
MAX_ELEMENTS = 2**31
"""Numbers of a constant or of one example's value; more cannot come from a model that fits in memory."""


class Unsupported(Exception):
    """What of an operator has no equivalent among Keras' layers."""


@dataclass(frozen=True)
class Value:
    """A tensor of the file that a Keras layer computes.

    The file is read as the function of one example (batch 1). Where the file's tensor has other axes in front than the
    batch, as in `(steps, channels)` of one example, the Keras tensor has all of them behind its batch.

    Attributes:
        layer: Name of the layer.
        shape: Shape of the layer's output, without the batch.
        order: Axes of `shape` in the order in which the file's tensor has them, such as `(2, 0, 1)` where the file
            has channels first and Keras has them last.
        has_batch: Whether the file's tensor begins with a batch axis.
        positions: For a flattened value, the index in `shape` of each of the file's numbers; None if they agree.
    """

    layer: str
    shape: Shape
    order: Shape
    has_batch: bool = True
    positions: Array | None = None

    @property
    def file_shape(self) -> Shape:
        """Shape of the file's tensor for one example."""
        batch = (1,) if self.has_batch else ()
        return (*batch, *(self.shape[axis] for axis in self.order))

    @property
    def is_in_order(self) -> bool:
        """Whether the axes longer than 1 are in the file's order, so that reshaping is enough."""
        moved = [axis for axis in self.order if self.shape[axis] != 1]
        return moved == sorted(moved)

    def find_axis(self, axis: int) -> int:
        """Return the axis of `shape` that is an axis of the file's tensor.

        Raises:
            Unsupported: If it is the batch axis.
            ValueError: If there is no such axis.
        """
        rank = len(self.file_shape)
        if not -rank <= axis < rank:
            raise ValueError(f"axis {axis} of a tensor of rank {rank}")
        place = axis % rank - self.has_batch
        if place < 0:
            raise Unsupported("works across the examples of a batch")
        return self.order[place]


class LayerGraph:
    """Layers of a Functional Keras model, as its config describes them, and their weights.

    Attributes:
        layers: Configs of the layers.
        weights: Weights of the layers that have some, by name.
    """

    def __init__(self) -> None:
        self.layers: list[dict[str, Any]] = []
        self.weights: dict[str, list[Array]] = {}
        self._names: set[str] = set()

    def add_input(self, shape: Shape) -> Value:
        """Add the model's input."""
        config = {"name": "input", "batch_input_shape": [None, *shape], "dtype": "float32"}
        self._names.add("input")
        self.layers.append({"class_name": "InputLayer", "name": "input", "config": config, "inbound_nodes": []})
        return _make_value_in_keras_order("input", shape)

    def add(
        self,
        class_name: str,
        name: str,
        inputs: Sequence[Value],
        shape: Shape,
        weights: Sequence[Array] = (),
        **config: Any,
    ) -> Value:
        """Add a layer.

        Args:
            class_name: Name of its Keras class.
            name: Its name, made unique here.
            inputs: What it is called with, as Keras has it.
            shape: Shape of its output without the batch.
            weights: Its weights. Defaults to none.
            **config: Its settings that differ from Keras' defaults.

        Returns:
            Its output, with the axes in Keras' order.

        Raises:
            ValueError: If the shape is impossible.
        """
        return self._append(class_name, name, shape, [[[v.layer, 0, 0, {}] for v in inputs]], config, weights)

    def add_function(self, function: str, name: str, value: Value, shape: Shape, **arguments: Any) -> Value:
        """Add a bare TensorFlow function as a layer; see `add`.

        Args:
            function: Its name in TensorFlow's API, such as `math.reduce_sum`.
            name: As in `add`.
            value: Its first argument.
            shape: As in `add`.
            **arguments: The function's other arguments, as JSON types; a layer's output is `[layer, 0, 0]`.
        """
        return self._append("TFOpLambda", name, shape, [[value.layer, 0, 0, arguments]], {"function": function}, ())

    def _append(
        self, class_name: str, name: str, shape: Shape, inbound: Any, config: dict[str, Any], weights: Sequence[Array]
    ) -> Value:
        if any(length < 1 for length in shape) or math.prod(shape) > MAX_ELEMENTS:
            raise ValueError(f"a result of shape {shape}")
        name = claim_name(name, self._names)
        config = {"name": name, **config}
        self.layers.append({"class_name": class_name, "name": name, "config": config, "inbound_nodes": inbound})
        if weights:
            self.weights[name] = [np.ascontiguousarray(array, np.float32) for array in weights]
        return _make_value_in_keras_order(name, shape)

    def is_nonnegative(self, value: Value) -> bool:
        """Return whether a layer ends in a rectifier, so that its output has no negative number."""
        layer = next(layer for layer in self.layers if layer["name"] == value.layer)
        return "relu" in (layer["class_name"].lower(), layer["config"].get("activation"))

    def straighten(self, value: Value, name: str) -> Value:
        """Return a value whose axes Keras has in the file's order, by a Permute or Reshape layer if it must be."""
        if value.order != tuple(range(len(value.shape))):
            shape = tuple(value.shape[axis] for axis in value.order)
            if value.is_in_order:
                straight = self.add("Reshape", f"{name}_reshape", [value], shape, target_shape=shape)
            else:
                dims = [axis + 1 for axis in value.order]
                straight = self.add("Permute", f"{name}_transpose", [value], shape, dims=dims)
            value = replace(straight, has_batch=value.has_batch)
        return value

    def require_images(self, value: Value, name: str) -> Value:
        """Return a value as Keras' `(batch, height, width, channels)`.

        Raises:
            Unsupported: If the file's tensor is no batch of images.
        """
        if not value.has_batch and value.file_shape[0] == 1:  # a batch of one example, made by a reshape
            value = self.reshape(value, value.file_shape, name)
        value = self.straighten(value, name)
        if not value.has_batch or len(value.shape) != 3:
            raise Unsupported(f"has an input of shape {value.file_shape}, not (1, height, width, channels)")
        return value

    def reshape(self, value: Value, target: Shape, name: str) -> Value:
        """Return a value reshaped to a shape of the file, by a Flatten or Reshape layer if it must be.

        Raises:
            ValueError: If the number of elements differs.
            Unsupported: If the target has no axes.
        """
        if math.prod(target) != math.prod(value.shape):
            raise ValueError(f"{value.file_shape} cannot be reshaped to {target}")
        if not target:
            raise Unsupported("makes a number without axes")
        has_batch = target[0] == 1 and len(target) > 1
        shape = target[1:] if has_batch else target
        if not value.is_in_order:
            if _list_long(value.file_shape) == _list_long(shape):
                return self._move_single_axes(value, shape, has_batch, name)
            value = self.straighten(value, name)
        if shape == value.shape:
            return replace(value, order=tuple(range(len(shape))), has_batch=has_batch)
        if len(shape) == 1:
            reshaped = self.add("Flatten", f"{name}_flatten", [value], shape)
        else:
            reshaped = self.add("Reshape", f"{name}_reshape", [value], shape, target_shape=shape)
        return replace(reshaped, has_batch=has_batch)

    def _move_single_axes(self, value: Value, shape: Shape, has_batch: bool, name: str) -> Value:
        """Reshape without moving the long axes, so that a later transposition can undo an earlier one."""
        singles = [1] * (len(shape) - len(_list_long(shape)))
        underlying = (*singles, *_list_long(value.shape))
        long_axes = [axis for axis in value.order if value.shape[axis] != 1]
        ranks = sorted(long_axes)
        places = iter([len(singles) + ranks.index(axis) for axis in long_axes])
        free = iter(range(len(singles)))
        order = tuple(next(free) if length == 1 else next(places) for length in shape)
        if underlying != value.shape:
            value = self.add("Reshape", f"{name}_reshape", [value], underlying, target_shape=underlying)
        return replace(value, order=order, has_batch=has_batch)


def claim_name(name: str, names: set[str]) -> str:
    """Return the name, with the first free number appended if it is taken, and add it to `names`."""
    candidates = chain([name], (f"{name}_{i}" for i in count(2)))
    free = next(candidate for candidate in candidates if candidate not in names)
    names.add(free)
    return free


def make_layer_name(title: str) -> str:
    """Return a layer's name from the name of its tensor.

    Args:
        title: The tensor's name, such as `model/conv1/Relu;model/conv1/BiasAdd;model/conv1/Conv2D` from TensorFlow's
            converter, or `Net/Block_a/torch.nn.modules.conv.Conv2d_conv1;2` from PyTorch's, which becomes `a_conv1`.
    """
    parts = [part for part in title.split(";") if part.strip("/") and "batchnorm" not in part.lower()]
    paths = [part.strip("/").split("/") for part in parts if not part.isdigit()]
    paths.sort(key=lambda path: (bool(_KERNEL_NAME.search(path[-1])), len(path) > 1))  # the best of equals is the last
    path = paths[-1] if paths else [""]
    modules = [match[1] for piece in path if (match := _TORCH_MODULE.fullmatch(piece))]
    inner = "_".join(modules) or path[max(0, len(path) - 2)]
    name = _UNSAFE.sub("_", inner).strip("_")[-_MAX_NAME:].strip("_")
    return name or "layer"


def _make_value_in_keras_order(layer: str, shape: Shape) -> Value:
    return Value(layer, shape, tuple(range(len(shape))))


def _list_long(shape: Shape) -> list[int]:
    return [length for length in shape if length != 1]
