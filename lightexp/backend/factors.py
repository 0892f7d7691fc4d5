"""Keras layers as two or three smaller ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from lightexp.backend.channels import ModelCost
from lightexp.core.lowrank import Factors, Ranks, highest_ranks, ranks_for_ratio

_KINDS = {"Conv1D": "filters", "Conv2D": "filters", "Dense": "units"}
_WINDOW = ("kernel_size", "strides", "dilation_rate")


@dataclass(frozen=True)
class FactorableLayer:
    """A layer that can be factorised.

    Attributes:
        shape: Of its kernel.
        reads: Positions of its input.
        gives: Positions of its output.
        biased: Whether the flatbuffer holds a bias for every such layer, as it does for convolutions.
    """

    shape: tuple[int, ...]
    input_positions: int
    output_positions: int
    always_biased: bool

    def compute_savings(self, ranks: Ranks) -> ModelCost:
        """What its factors cost less than it does; nothing where they are no smaller, so that it stays."""
        (*window, inputs, outputs), (a, b) = self.shape, ranks
        core, reduce, expand = math.prod(window) * a * b, inputs * a * (a < inputs), b * outputs * (b < outputs)
        biases = a * (a < inputs) + b * (b < outputs) if self.always_biased else 0
        whole = math.prod(self.shape)
        params = whole - core - reduce - expand - biases
        macs = self.output_positions * (whole - core - expand) - self.input_positions * reduce
        return ModelCost(macs, params) if params > 0 and macs >= 0 else ModelCost(0, 0)

    def find_highest_ranks(self) -> Ranks | None:
        """The highest ranks at which its factors are as many as they can be, and smaller; None if they never are."""
        top = max(highest_ranks(self.shape))
        found = [
            ranks
            for n in range(top, 0, -1)
            if self.compute_savings(ranks := ranks_for_ratio(self.shape, n / top)).params
        ]
        return max(found, key=lambda r: (r.inputs < self.shape[-2]) + (r.outputs < self.shape[-1]), default=None)


def find_factorable(model: Any) -> tuple[dict[str, FactorableLayer], dict[str, str]]:
    """The layers of a flat model that can be factorised; and of the others with weights, why they cannot."""
    found, others = {}, {}
    for layer in model.layers:
        kind = type(layer).__name__
        if kind not in _KINDS:
            others |= {layer.name: f"only {', '.join(_KINDS)} are factorised"} if layer.weights else {}
        elif getattr(layer, "groups", 1) > 1:
            others[layer.name] = f"its filters are in {layer.groups} groups"
        elif getattr(layer, "data_format", "channels_last") != "channels_last":
            others[layer.name] = "its channels come first"
        else:
            calls = [(node.input_shapes, node.output_shapes) for node in layer.inbound_nodes]
            reads, gives = (sum(map(_positions, side)) for side in zip(*calls, strict=True))
            found[layer.name] = FactorableLayer(tuple(layer.kernel.shape), reads, gives, kind != "Dense")
    return found, others


def factorize_model(model: Any, factors: Mapping[str, Factors]) -> Any:
    """The same model with layers taken apart.

    The last of a layer's factors has its name, its bias and its activation, and so its place for whatever comes after;
    those before it are linear, without bias, and called `NAME_reduce` and `NAME_core`.

    Args:
        model: A functional or sequential model of plain layers; left as it is.
        factors: By name of the layer.
    """
    config, described = model.get_config(), []
    taken = {layer.name for layer in model.layers}
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    for whole in config["layers"]:
        parts = factors.get(name := whole["config"]["name"])
        if parts is None:
            described.append(whole)
            continue
        bias = weights.pop(name)[1:]
        links = [(part, kernel) for part, kernel in zip(parts._fields, parts, strict=True) if kernel is not None]
        for number, (part, kernel) in enumerate(links):
            last = number == len(links) - 1
            called = name if last else _free(f"{name}_{part}", taken)
            described.append(_part(whole, called, part == "core", kernel.shape[-1], last))
            if number and "inbound_nodes" in whole:
                calls = range(len(whole["inbound_nodes"]))
                before = described[-2]["name"]
                described[-1]["inbound_nodes"] = [[[before, call, 0, {}]] for call in calls]
            weights[called] = [kernel, *(bias if last else [])]
    smaller = type(model).from_config({**config, "layers": described})
    for layer in smaller.layers:
        if layer.weights:
            given = weights[layer.name]
            layer.set_weights([w.reshape(v.shape) for w, v in zip(given, layer.weights, strict=True)])
    return smaller


def _positions(shape: tuple[int | None, ...]) -> int:
    return math.prod(n or 1 for n in shape[1:-1])


def _part(whole: dict[str, Any], name: str, core: bool, channels: int, last: bool) -> dict[str, Any]:
    """The description of one factor, from that of the layer."""
    part = copy.deepcopy(whole)
    part.pop("build_config", None)  # the shapes that its weights had
    part["config"] |= {"name": name, _KINDS[part["class_name"]]: channels}
    part |= {"name": name} if "name" in part else {}
    if not core:
        ones = {field: [1] * len(part["config"]["kernel_size"]) for field in _WINDOW if field in part["config"]}
        part["config"] |= {**ones, "padding": "valid"} if ones else {}
    if not last:
        part["config"] |= {"use_bias": False, "activation": "linear", "activity_regularizer": None}
    return part


def _free(name: str, taken: set[str]) -> str:
    """The name, with the first number that makes it a new one where it is taken."""
    free = next(n for n in chain([name], (f"{name}_{i}" for i in count(2))) if n not in taken)
    taken.add(free)
    return free
