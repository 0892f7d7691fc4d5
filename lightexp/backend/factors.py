"""Replace Keras layers by two or three smaller ones whose product approximates their kernels."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from lightexp.backend.channels import ModelCost
from lightexp.core.lowrank import Factors, Ranks, highest_ranks, ranks_for_ratio

_SIZE_FIELDS = {"Conv1D": "filters", "Conv2D": "filters", "Dense": "units"}
_WINDOW_FIELDS = ("kernel_size", "strides", "dilation_rate")


@dataclass(frozen=True)
class FactorableLayer:
    """A layer that can be factorised.

    Attributes:
        shape: Shape of its kernel.
        input_positions: Positions of its input.
        output_positions: Positions of its output.
        always_biased: Whether the flatbuffer holds a bias for every such layer, as it does for convolutions.
    """

    shape: tuple[int, ...]
    input_positions: int
    output_positions: int
    always_biased: bool

    def compute_savings(self, ranks: Ranks) -> ModelCost:
        """Return how much less its factors cost than the layer; zero if they are no smaller and the layer stays."""
        *window, inputs, outputs = self.shape
        core = math.prod(window) * ranks.inputs * ranks.outputs
        reduce, expand, biases = 0, 0, 0
        if ranks.inputs < inputs:
            reduce = inputs * ranks.inputs
            biases += ranks.inputs
        if ranks.outputs < outputs:
            expand = ranks.outputs * outputs
            biases += ranks.outputs
        if not self.always_biased:
            biases = 0
        kernel = math.prod(self.shape)
        params = kernel - core - reduce - expand - biases
        macs = self.output_positions * (kernel - core - expand) - self.input_positions * reduce
        return ModelCost(macs, params) if params > 0 and macs >= 0 else ModelCost(0, 0)

    def find_highest_ranks(self) -> Ranks | None:
        """Return the highest ranks at which it has the most factors and still saves; None if it never saves."""
        top = max(highest_ranks(self.shape))
        candidates = [ranks_for_ratio(self.shape, n / top) for n in range(top, 0, -1)]
        candidates = [ranks for ranks in candidates if self.compute_savings(ranks).params]
        return max(candidates, key=self._count_factors, default=None)

    def _count_factors(self, ranks: Ranks) -> int:
        """Return the number of factors besides the core."""
        return (ranks.inputs < self.shape[-2]) + (ranks.outputs < self.shape[-1])


def find_factorable(model: Any) -> tuple[dict[str, FactorableLayer], dict[str, str]]:
    """Find the layers of a flat model that can be factorised.

    Returns:
        These layers by name, and for each other layer with weights the reason why it cannot.
    """
    factorable: dict[str, FactorableLayer] = {}
    reasons: dict[str, str] = {}
    for layer in model.layers:
        kind = type(layer).__name__
        if kind not in _SIZE_FIELDS:
            if layer.weights:
                reasons[layer.name] = f"only {', '.join(_SIZE_FIELDS)} are factorised"
        elif getattr(layer, "groups", 1) > 1:
            reasons[layer.name] = f"its filters are in {layer.groups} groups"
        elif getattr(layer, "data_format", "channels_last") != "channels_last":
            reasons[layer.name] = "its channels come first"
        else:
            inputs = sum(_count_positions(node.input_shapes) for node in layer.inbound_nodes)
            outputs = sum(_count_positions(node.output_shapes) for node in layer.inbound_nodes)
            factorable[layer.name] = FactorableLayer(tuple(layer.kernel.shape), inputs, outputs, kind != "Dense")
    return factorable, reasons


def factorize_model(model: Any, factors: Mapping[str, Factors]) -> Any:
    """Return a new model in which some layers are replaced by their factors.

    The last factor of a layer has its name, bias and activation, so that whatever follows stays connected; the factors
    before it are linear, without bias, and named `NAME_reduce` and `NAME_core`.

    Args:
        model: A functional or sequential model of plain layers; not changed.
        factors: Factors by the layer's name.
    """
    config = model.get_config()
    names = {layer.name for layer in model.layers}
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    layer_configs: list[dict[str, Any]] = []
    for layer_config in config["layers"]:
        name = layer_config["config"]["name"]
        if name not in factors:
            layer_configs.append(layer_config)
            continue
        bias = weights.pop(name)[1:]
        kernels = {part: kernel for part, kernel in factors[name]._asdict().items() if kernel is not None}
        for part, kernel in kernels.items():
            is_first, is_last = part == next(iter(kernels)), part == list(kernels)[-1]
            factor_name = name if is_last else _claim_name(f"{name}_{part}", names)
            factor_config = _configure_factor(layer_config, factor_name, part == "core", kernel.shape[-1], is_last)
            if not is_first and "inbound_nodes" in layer_config:
                previous = layer_configs[-1]["name"]
                calls = range(len(layer_config["inbound_nodes"]))
                factor_config["inbound_nodes"] = [[[previous, call, 0, {}]] for call in calls]
            layer_configs.append(factor_config)
            weights[factor_name] = [kernel, *(bias if is_last else [])]
    smaller = type(model).from_config({**config, "layers": layer_configs})
    for layer in smaller.layers:
        if layer.weights:
            arrays = weights[layer.name]
            layer.set_weights([w.reshape(v.shape) for w, v in zip(arrays, layer.weights, strict=True)])
    return smaller


def _count_positions(shape: tuple[int | None, ...]) -> int:
    return math.prod(n or 1 for n in shape[1:-1])


def _configure_factor(
    layer_config: dict[str, Any], name: str, is_core: bool, channels: int, is_last: bool
) -> dict[str, Any]:
    """Return the config of one factor, from the config of the layer.

    Args:
        layer_config: The layer's config.
        name: The factor's name.
        is_core: Whether the factor has the layer's window; the others have a window of one position.
        channels: Channels of its output.
        is_last: Whether it is the layer's last factor.
    """
    factor = copy.deepcopy(layer_config)
    factor.pop("build_config", None)  # the shapes that the layer's weights had
    if "name" in factor:
        factor["name"] = name
    config = factor["config"]
    config |= {"name": name, _SIZE_FIELDS[factor["class_name"]]: channels}
    if not is_core and "kernel_size" in config:
        ones = [1] * len(config["kernel_size"])
        config |= {field: list(ones) for field in _WINDOW_FIELDS if field in config}
        config["padding"] = "valid"
    if not is_last:
        config |= {"use_bias": False, "activation": "linear", "activity_regularizer": None}
    return factor


def _claim_name(name: str, names: set[str]) -> str:
    """Return the name, with the first free number appended if it is taken, and add it to `names`."""
    candidates = chain([name], (f"{name}_{i}" for i in count(2)))
    free = next(candidate for candidate in candidates if candidate not in names)
    names.add(free)
    return free
