"""Which channels of a Keras model go together, and the model without some of them.

Every tensor is a row of channel numbers along its last axis, the same at each position. Layers that learn make new
channels, the others pass them on, and where two tensors meet in an addition their channels become one (union-find). A
channel goes with all that is one with it, from every weight that makes or reads it. Number 0 stands for all that stay:
the model's inputs and its outputs.

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

from lightexp.core.errors import BadInput

ChannelRow = NDArray[np.intp]
_LEARN = {"Conv1D": "filters", "Conv2D": "filters", "Dense": "units"}
_DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
_PASS = re.compile(
    "Activation|ActivityRegularization|ELU|LeakyReLU|ReLU|Softmax|ThresholdedReLU|(Alpha|Gaussian)?Dropout|"
    "GaussianNoise|SpatialDropout[12]D|(Global)?(Average|Max)Pooling[12]D|(Cropping|UpSampling|ZeroPadding)[12]D"
)
_MERGE = ("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract")


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose outputs share channels.

    Attributes:
        layers: Names of the layers that make them, in the model's order.
        channels: Their numbers; each goes or stays on its own.
    """

    layers: tuple[str, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class ModelCost:
    """What the float32 flatbuffer of a model will cost, as `compute/macs` and `model/params` count it."""

    macs: int
    params: int


class ChannelGraph:
    """The channels of one model.

    Attributes:
        made: The channels that each learning layer makes, by its name.
        read: Those that each batch normalisation scales, by its name.
        spaces: The layers that make channels that may go, with these.
    """

    def __init__(self, model: Any) -> None:
        """Follows the channels from the inputs to the outputs.

        Raises:
            BadInput: If a layer cannot be followed; names it and says why.
        """
        self._model = model
        self._union = [0]
        self._axes: dict[
            str, list[dict[int, ChannelRow]]
        ] = {}  # of each weight, the channels along the axes that have them
        self._sizes: dict[
            str, tuple[str, tuple[int, ...] | None, ChannelRow]
        ] = {}  # what a layer's config says of its size
        self._positions: dict[str, int] = {}
        self.output_channels: dict[str, ChannelRow] = {}
        self.normalized_channels: dict[str, ChannelRow] = {}
        mixed: list[tuple[Any, ChannelRow]] = []
        rows = {id(t): np.zeros(t.shape[-1], np.intp) for t in model.inputs}
        for layer in model.layers:
            if type(layer).__name__ == "InputLayer":
                continue
            if len(layer.inbound_nodes) != 1 or isinstance(layer.output, list):
                raise _lost(layer, "it is used more than once, or gives more than one output")
            given = layer.input if isinstance(layer.input, list) else [layer.input]
            row = self._follow(layer, [rows[id(t)] for t in given])
            rows[id(layer.output)] = row
            if type(layer).__name__ == "Softmax" or "softmax" in _activation(layer):
                mixed.append((layer, row))
        for tensor in model.outputs:
            self._join(rows[id(tensor)], np.zeros(1, np.intp))
        root = np.array([self._find(i) for i in range(len(self._union))])
        for layer, row in mixed:
            if root[row].any():
                raise _lost(layer, "its softmax mixes the channels")
        self.output_channels = {name: root[row] for name, row in self.output_channels.items()}
        self.normalized_channels = {name: root[row] for name, row in self.normalized_channels.items()}
        self._axes = {n: [{a: root[r] for a, r in axes.items()} for axes in ws] for n, ws in self._axes.items()}
        self._sizes = {name: (field, lead, root[row]) for name, (field, lead, row) in self._sizes.items()}
        self.count = len(root)
        self.groups = self._spaces()

    def compute_cost(self, gone: Collection[int] = ()) -> ModelCost:
        """The costs without the channels `gone`."""
        kept, macs, params = self._kept(gone), 0, 0
        for layer in self._model.layers:
            axes = self._axes.get(layer.name)
            if axes is None:
                params += layer.count_params()
            elif layer.name in self._positions:
                shape = list(layer.weights[0].shape)
                for axis, row in axes[0].items():
                    shape[axis] = int(kept[row].sum())
                macs += self._positions[layer.name] * math.prod(shape)
                out = shape[-1] if layer.name in self.output_channels else shape[-2] * shape[-1]
                biased = layer.use_bias or type(layer).__name__ != "Dense" or _normalised(layer)
                params += math.prod(shape) + (out if biased else 0)
            elif layer.name in self.normalized_channels:  # folded into the layer before it, if that is linear
                params += 0 if _folds(layer) else 2 * int(kept[self.normalized_channels[layer.name]].sum())
            else:
                params += sum(int(kept[row].sum()) for weight in axes for row in weight.values())
        return ModelCost(macs, params)

    def remove(self, gone: Collection[int]) -> Any:
        """The same model, with its weights, without the channels `gone`."""
        kept, config = self._kept(gone), self._model.get_config()
        for described in config["layers"]:
            described.pop("build_config", None)  # the shapes that its weights had
            if size := self._sizes.get(described["config"]["name"]):
                field, lead, row = size
                count = int(kept[row].sum())
                described["config"][field] = count if lead is None else (*lead, count)
        smaller = type(self._model).from_config(config)
        for layer in self._model.layers:
            weights = layer.get_weights()
            for place, axes in enumerate(self._axes.get(layer.name, [])):
                for axis, row in axes.items():
                    weights[place] = np.compress(kept[row], weights[place], axis)
            if weights:
                smaller.get_layer(layer.name).set_weights(weights)
        return smaller

    def _kept(self, gone: Collection[int]) -> NDArray[np.bool_]:
        kept = np.ones(self.count, np.bool_)
        kept[list(gone)] = False
        return kept

    def _follow(self, layer: Any, given: list[ChannelRow]) -> ChannelRow:
        """The channels that a layer gives, from those that it is given."""
        kind, name, row = type(layer).__name__, layer.name, given[0]
        shape = tuple(layer.output.shape[1:])
        if None in shape:
            raise _lost(layer, f"its output {shape} has no fixed size")
        if getattr(layer, "data_format", "channels_last") != "channels_last":
            raise _lost(layer, "its channels come first")
        if kind in _LEARN or kind in _DEPTHWISE:
            if kind in _LEARN and getattr(layer, "groups", 1) > 1:
                raise _lost(layer, f"its filters are in {layer.groups} groups")
            self._positions[name] = math.prod(shape[:-1])
            if kind in _LEARN:
                out = self._new(shape[-1])
                self.output_channels[name], self._sizes[name] = out, (_LEARN[kind], None, out)
                kernel = {-2: row, -1: out}
            else:
                out, kernel = np.repeat(row, layer.depth_multiplier), {-2: row}
            self._axes[name] = [kernel, *([{0: out}] if layer.use_bias else [])]
            return out
        if kind == "BatchNormalization":
            axes = np.atleast_1d(layer.axis).tolist()
            if axes not in ([-1], [len(shape)]):
                raise _lost(layer, f"it normalises axis {axes[0]}, not the last")
            self.normalized_channels[name] = row
            self._axes[name] = [{0: row} for _ in layer.weights]
            return row
        if kind == "PReLU":
            self._axes[name] = [{-1: row}]
            return row
        if _PASS.fullmatch(kind):
            return row
        if kind in _MERGE:
            for other in given[1:]:
                self._join(given[0], other)
            return max(given, key=len)
        if kind == "Concatenate":
            if layer.axis not in (-1, len(shape)):
                for other in given[1:]:
                    self._join(given[0], other)
                return row
            return np.concatenate(given)
        if kind in ("Flatten", "Reshape"):
            # Each of the input's values in order; what comes to lie along one axis of the output is one channel.
            values = np.resize(row, math.prod(layer.input.shape[1:])).reshape(-1, shape[-1])
            for other in values[1:] if len(shape) > 1 else ():
                self._join(values[0], other)
            if kind == "Reshape":
                self._sizes[name] = ("target_shape", shape[:-1], values[0])
            return values[0]
        if not any(r.any() for r in given):
            return np.zeros(shape[-1], np.intp)  # before the first layer that learns everything stays
        raise _lost(layer, f"what a {kind} does to channels is not known")

    def _new(self, count: int) -> ChannelRow:
        first = len(self._union)
        self._union += range(first, first + count)
        return np.arange(first, first + count)

    def _find(self, channel: int) -> int:
        while self._union[channel] != channel:
            self._union[channel] = channel = self._union[self._union[channel]]
        return channel

    def _join(self, one: ChannelRow, other: ChannelRow) -> None:
        """Makes channels one, pair by pair; one channel alone with every other."""
        for a, b in zip(*np.broadcast_arrays(one, other), strict=True):
            low, high = sorted((self._find(int(a)), self._find(int(b))))
            self._union[high] = low

    def _spaces(self) -> list[ChannelGroup]:
        """Puts layers together that share a channel which may go."""
        found: list[tuple[list[str], set[int]]] = []
        for name, row in self.output_channels.items():
            names, channels = [name], set(row.tolist()) - {0}
            for space in [s for s in found if s[1] & channels]:
                found.remove(space)
                names, channels = space[0] + names, channels | space[1]
            if channels:
                found.append((names, channels))
        order = list(self.output_channels)
        spaces = [ChannelGroup(tuple(sorted(n, key=order.index)), tuple(sorted(c))) for n, c in found]
        return sorted(spaces, key=lambda space: order.index(space.layers[0]))


def _activation(layer: Any) -> str:
    return str(getattr(getattr(layer, "activation", None), "__name__", ""))


def _before(layer: Any) -> Any:
    """The layer that makes what this one reads."""
    return layer.inbound_nodes[0].inbound_layers


def _folds(norm: Any) -> bool:
    before = _before(norm)
    learns = type(before).__name__ in (*_LEARN, *_DEPTHWISE)
    return learns and _activation(before) == "linear" and len(before.outbound_nodes) == 1


def _normalised(layer: Any) -> bool:
    after = [node.outbound_layer for node in layer.outbound_nodes]
    return any(type(a).__name__ == "BatchNormalization" and _folds(a) for a in after)


def _lost(layer: Any, why: str) -> BadInput:
    return BadInput(
        f"the channels of layer '{layer.name}' ({type(layer).__name__}) cannot be followed: {why}. Leave the stage out "
        "for this model, or take prune, which needs no more than kernels."
    )
