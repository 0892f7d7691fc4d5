"""Channel groups of a Keras model (which channels must be removed together), and the model without some channels.

Every tensor is described by a row of channel numbers along its last axis, the same at each position. Layers with
filters or units create new channels, other layers pass theirs on, and an addition makes the channels of its inputs one
(union-find). A channel is removed from every weight that computes or reads it. Number 0 stands for all channels that
must stay: the model's inputs and outputs, and what a layer reads that could not do without, such as a grouped
convolution.

Fang et al. 2023, "DepGraph: Towards Any Structural Pruning" (arXiv 2301.12900), does the same for PyTorch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.backend.kernels import is_recurrent, list_parts
from lightexp.core.errors import BadInput

ChannelRow = NDArray[np.intp]
_TRANSPOSED = ("Conv1DTranspose", "Conv2DTranspose")  # the last axes of their kernels are outputs and inputs
_SIZE_FIELDS = {"Conv1D": "filters", "Conv2D": "filters", "Dense": "units"} | dict.fromkeys(_TRANSPOSED, "filters")
_DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
_CHANNELWISE = re.compile(
    "Activation|ActivityRegularization|ELU|LeakyReLU|ReLU|Softmax|ThresholdedReLU|(Alpha|Gaussian)?Dropout|"
    "GaussianNoise|SpatialDropout[12]D|(Global)?(Average|Max)Pooling[12]D|(Cropping|UpSampling|ZeroPadding)[12]D"
)
_MERGES = ("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract")
_FIXED = np.zeros(1, np.intp)  # the channels that must stay


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose outputs share channels.

    Attributes:
        layers: Names of the layers that compute them, in the model's order.
        channels: Channel numbers; each can be removed without the others.
    """

    layers: tuple[str, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class ModelCost:
    """Size of a model's float32 flatbuffer, counted as the metrics `compute/macs` and `model/params` count it."""

    macs: int
    params: int


@dataclass(frozen=True)
class _SizeSetting:
    """A field of a layer's config that holds a number of channels.

    Attributes:
        field: Such as `filters`.
        leading: The leading dimensions of a shape that ends in the number; None where the field is the number.
        row: The channels that are counted.
    """

    field: str
    leading: tuple[int, ...] | None
    row: ChannelRow


class ChannelGraph:
    """The channels of one model.

    Attributes:
        count: Number of channels, with number 0 for all that must stay.
        output_channels: The channels that each layer with filters or units computes, by the layer's name.
        normalized_channels: The channels that each batch normalisation scales, by the layer's name.
        groups: Layers that share removable channels, and these channels.
        pinning: Why all channels that a layer reads must stay, by the layer's name.
        pinned: The layer that some layer's channels must stay for, by the latter's name; none for the model's outputs.
    """

    def __init__(self, model: Any) -> None:
        """Follow the channels from the model's inputs to its outputs.

        Args:
            model: A flat Keras model.

        Raises:
            BadInput: If a layer is used more than once or has no fixed size; names the layer.
        """
        self._model = model
        self._parents = [0]  # union-find: a channel's representative is found by following its parents
        self._axes: dict[str, list[dict[int, ChannelRow]]] = {}  # by layer, for each weight: channels by axis
        self._sizes: dict[str, _SizeSetting] = {}
        self._positions: dict[str, int] = {}
        self._pins: list[tuple[str, ChannelRow]] = []  # layers and the channels that they read
        self.output_channels: dict[str, ChannelRow] = {}
        self.normalized_channels: dict[str, ChannelRow] = {}
        self.pinning: dict[str, str] = {}
        self._trace()
        self.pinned = self._join_pins()
        self._number()
        self.count = len(self._parents)
        self.groups = self._find_groups()

    def compute_cost(self, removed: Collection[int] = ()) -> ModelCost:
        """Return the cost of the model without the channels `removed`."""
        stays, macs, params = self._mask(removed), 0, 0
        for layer in self._model.layers:
            axes = self._axes.get(layer.name)
            if axes is None:
                params += layer.count_params()
                if is_recurrent(layer):
                    macs += layer.input_shape[1] * sum(int(np.prod(part.shape)) for part in list_parts(layer).values())
            elif layer.name in self._positions:
                shape = list(layer.weights[0].shape)
                for axis, row in axes[0].items():
                    shape[axis] = int(stays[row].sum())
                macs += self._positions[layer.name] * math.prod(shape)
                is_depthwise = type(layer).__name__ in _DEPTHWISE
                outputs = shape[-2] * shape[-1] if is_depthwise else shape[get_output_axis(layer)]
                has_bias = layer.use_bias or type(layer).__name__ != "Dense" or _is_followed_by_folded_norm(layer)
                params += math.prod(shape) + (outputs if has_bias else 0)
            elif layer.name in self.normalized_channels:
                if not _is_folded(layer):
                    params += 2 * int(stays[self.normalized_channels[layer.name]].sum())
            else:
                params += sum(int(stays[row].sum()) for weight in axes for row in weight.values())
        return ModelCost(macs, params)

    def remove(self, removed: Collection[int]) -> Any:
        """Return a new model, with the same weights, without the channels `removed`."""
        stays, config = self._mask(removed), self._model.get_config()
        for layer_config in config["layers"]:
            layer_config.pop("build_config", None)  # the shapes that its weights had
            if size := self._sizes.get(layer_config["config"]["name"]):
                count = int(stays[size.row].sum())
                layer_config["config"][size.field] = count if size.leading is None else (*size.leading, count)
        smaller = type(self._model).from_config(config)
        for layer in self._model.layers:
            weights = layer.get_weights()
            for place, axes in enumerate(self._axes.get(layer.name, [])):
                for axis, row in axes.items():
                    weights[place] = np.compress(stays[row], weights[place], axis)
            if weights:
                smaller.get_layer(layer.name).set_weights(weights)
        return smaller

    def _mask(self, removed: Collection[int]) -> NDArray[np.bool_]:
        stays = np.ones(self.count, np.bool_)
        stays[list(removed)] = False
        return stays

    def _trace(self) -> None:
        """Follow the channels through all layers."""
        rows = {id(tensor): np.zeros(tensor.shape[-1], np.intp) for tensor in self._model.inputs}
        for layer in self._model.layers:
            if type(layer).__name__ == "InputLayer":
                continue
            if len(layer.inbound_nodes) != 1 or isinstance(layer.output, list):
                raise _cannot_follow(layer, "it is used more than once, or gives more than one output")
            inputs = layer.input if isinstance(layer.input, list) else [layer.input]
            row = self._follow(layer, [rows[id(tensor)] for tensor in inputs])
            rows[id(layer.output)] = row
            if type(layer).__name__ == "Softmax" or "softmax" in _get_activation_name(layer):
                self._pin(layer, [row], "its softmax mixes the channels")
        for tensor in self._model.outputs:
            self._join(rows[id(tensor)], _FIXED)

    def _pin(self, layer: Any, inputs: list[ChannelRow], reason: str) -> ChannelRow:
        """Note that all channels that a layer reads must stay; return those of its output, which stay, too."""
        self.pinning[layer.name] = reason
        outputs = np.repeat(self._create(1), layer.output.shape[-1])
        self._pins += [(layer.name, row) for row in (*inputs, outputs)]
        return outputs

    def _join_pins(self) -> dict[str, str]:
        """Make the channels that must stay for a layer number 0; return that layer by the layers that compute them."""
        pinned: dict[str, str] = {}
        for reader, row in self._pins:
            needed = {self._find(channel) for channel in row.tolist()} - {0}
            for name, outputs in self.output_channels.items():
                if needed.intersection(map(self._find, outputs.tolist())):
                    pinned.setdefault(name, reader)
            self._join(row, _FIXED)
        return pinned

    def _number(self) -> None:
        """Replace every channel by its representative, now that all joins are known."""
        root = np.array([self._find(channel) for channel in range(len(self._parents))])
        self.output_channels = {name: root[row] for name, row in self.output_channels.items()}
        self.normalized_channels = {name: root[row] for name, row in self.normalized_channels.items()}
        self._axes = {
            name: [{axis: root[row] for axis, row in axes.items()} for axes in weights]
            for name, weights in self._axes.items()
        }
        self._sizes = {
            name: _SizeSetting(size.field, size.leading, root[size.row]) for name, size in self._sizes.items()
        }

    def _follow(self, layer: Any, inputs: list[ChannelRow]) -> ChannelRow:
        """Return the channels of a layer's output, from those of its inputs; record where its weights have them."""
        kind, row = type(layer).__name__, inputs[0]
        shape = tuple(layer.output.shape[1:])
        if None in shape:
            raise _cannot_follow(layer, f"its output {shape} has no fixed size")
        if getattr(layer, "data_format", "channels_last") != "channels_last":
            return self._pin(layer, inputs, "its channels come first")
        if kind in _SIZE_FIELDS or kind in _DEPTHWISE:
            return self._follow_kernel(layer, row, shape)
        if kind == "BatchNormalization":
            return self._follow_normalization(layer, row, len(shape))
        if kind == "PReLU":
            self._axes[layer.name] = [{-1: row}]
            return row
        if _CHANNELWISE.fullmatch(kind) or (kind == "Rescaling" and np.ndim(layer.scale) == np.ndim(layer.offset) == 0):
            return row
        if kind in _MERGES:
            self._join_all(inputs)
            return max(inputs, key=len)
        if kind == "Concatenate":
            if layer.axis in (-1, len(shape)):
                return np.concatenate(inputs)
            self._join_all(inputs)
            return row
        if kind in ("Flatten", "Reshape"):
            return self._follow_reshape(layer, row, shape)
        return self._pin(layer, inputs, f"a {kind} cannot do without some")

    def _follow_kernel(self, layer: Any, row: ChannelRow, shape: tuple[int, ...]) -> ChannelRow:
        """Follow a convolution, depthwise convolution or dense layer."""
        kind, name = type(layer).__name__, layer.name
        self._positions[name] = math.prod(shape[:-1])
        if kind in _DEPTHWISE:
            outputs: ChannelRow = np.repeat(row, layer.depth_multiplier)
            kernel_axes = {-2: row}
        else:
            if getattr(layer, "groups", 1) > 1:
                self._axes[name] = [{}]
                return self._pin(layer, [row], f"its filters are in {layer.groups} groups")
            outputs = self._create(shape[-1])
            self.output_channels[name] = outputs
            self._sizes[name] = _SizeSetting(_SIZE_FIELDS[kind], None, outputs)
            axis = get_output_axis(layer)
            kernel_axes = {axis: outputs, -3 - axis: row}
            if kind in _TRANSPOSED:  # computes at each position of its input
                self._positions[name] = math.prod(layer.input.shape[1:-1])
        self._axes[name] = [kernel_axes, *([{0: outputs}] if layer.use_bias else [])]
        return outputs

    def _follow_normalization(self, layer: Any, row: ChannelRow, rank: int) -> ChannelRow:
        axes = np.atleast_1d(layer.axis).tolist()
        if axes not in ([-1], [rank]):
            return self._pin(layer, [row], f"it normalises axis {axes[0]}, not the last")
        self.normalized_channels[layer.name] = row
        self._axes[layer.name] = [{0: row} for _ in layer.weights]
        return row

    def _follow_reshape(self, layer: Any, row: ChannelRow, shape: tuple[int, ...]) -> ChannelRow:
        """Follow each value of the input to its place; values that share a last index of the output are joined."""
        values = np.resize(row, math.prod(layer.input.shape[1:])).reshape(-1, shape[-1])
        if len(shape) > 1:
            for other in values[1:]:
                self._join(values[0], other)
        if type(layer).__name__ == "Reshape":
            self._sizes[layer.name] = _SizeSetting("target_shape", shape[:-1], values[0])
        outputs: ChannelRow = values[0]
        return outputs

    def _create(self, count: int) -> ChannelRow:
        """Return `count` new channels."""
        first = len(self._parents)
        self._parents += range(first, first + count)
        return np.arange(first, first + count)

    def _find(self, channel: int) -> int:
        """Return a channel's representative, shortening the path to it."""
        while self._parents[channel] != channel:
            self._parents[channel] = channel = self._parents[self._parents[channel]]
        return channel

    def _join(self, row: ChannelRow, other: ChannelRow) -> None:
        """Make the channels of two rows one, pair by pair; a row of one channel is joined with every other."""
        for channel, partner in zip(*np.broadcast_arrays(row, other), strict=True):
            low, high = sorted((self._find(int(channel)), self._find(int(partner))))
            self._parents[high] = low

    def _join_all(self, rows: list[ChannelRow]) -> None:
        for other in rows[1:]:
            self._join(rows[0], other)

    def _find_groups(self) -> list[ChannelGroup]:
        """Return groups of layers that share a removable channel, in the model's order."""
        merged: list[tuple[list[str], set[int]]] = []
        for name, row in self.output_channels.items():
            names, channels = [name], set(row.tolist()) - {0}
            for group in [group for group in merged if group[1] & channels]:
                merged.remove(group)
                names, channels = group[0] + names, channels | group[1]
            if channels:
                merged.append((names, channels))
        order = list(self.output_channels)
        groups = [ChannelGroup(tuple(sorted(n, key=order.index)), tuple(sorted(c))) for n, c in merged]
        return sorted(groups, key=lambda group: order.index(group.layers[0]))


def get_output_axis(layer: Any) -> int:
    """Return the axis of a layer's kernel that its filters or units are on."""
    return -2 if type(layer).__name__ in _TRANSPOSED else -1


def _get_activation_name(layer: Any) -> str:
    return str(getattr(getattr(layer, "activation", None), "__name__", ""))


def _is_folded(norm: Any) -> bool:
    """Return whether the converter folds a batch normalisation into the layer before it, which must be linear."""
    previous = norm.inbound_nodes[0].inbound_layers
    has_kernel = type(previous).__name__ in (*_SIZE_FIELDS, *_DEPTHWISE)
    return has_kernel and _get_activation_name(previous) == "linear" and len(previous.outbound_nodes) == 1


def _is_followed_by_folded_norm(layer: Any) -> bool:
    following = [node.outbound_layer for node in layer.outbound_nodes]
    return any(type(other).__name__ == "BatchNormalization" and _is_folded(other) for other in following)


def _cannot_follow(layer: Any, reason: str) -> BadInput:
    return BadInput(
        f"the channels of layer '{layer.name}' ({type(layer).__name__}) cannot be followed: {reason}. Leave the stage "
        "out for this model, or use prune, which needs only kernels."
    )
