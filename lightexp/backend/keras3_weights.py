"""Weights of Keras 3 files, by layer, and their transfer into the rebuilt layers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lightexp.backend.keras3_config import make_broken_error
from lightexp.backend.keras3_graph import KerasGraph, LayerSpec
from lightexp.backend.keras_archive import ARCHIVE_WEIGHTS, LEGACY_WEIGHTS

_CELLS = {
    "LSTM": ("cell/",),
    "GRU": ("cell/",),
    "SimpleRNN": ("cell/",),
    "Bidirectional": ("forward_layer/cell/", "backward_layer/cell/"),
    "MultiHeadAttention": ("query_dense/", "key_dense/", "value_dense/", "output_dense/"),
    "TimeDistributed": ("layer/",),
}
"""Where the weights of layers with parts are, below the layer."""


def load_weights(graph: KerasGraph, layers: list[Any], folder: Path) -> None:
    """Set the weights of a rebuilt model.

    Args:
        graph: The architecture.
        layers: The layer of legacy Keras for each of `graph.layers`; None for an operation.
        folder: Holds the clean copy of the weights; see `keras_archive.extract`.

    Raises:
        BadInput: If the weights do not fit the layers.
    """
    pairs = [(spec, layer) for spec, layer in zip(graph.layers, layers, strict=True) if layer is not None]
    pairs.sort(key=lambda pair: pair[0].rank)
    if (folder / ARCHIVE_WEIGHTS).exists():
        with h5py.File(folder / ARCHIVE_WEIGHTS, "r") as file:
            stored = {spec.path: _read_layer(file, spec) for spec, _ in pairs}
    else:
        with h5py.File(folder / LEGACY_WEIGHTS, "r") as file:
            stored = _read_legacy_weights(graph, pairs, file)
    for spec, layer in pairs:
        _check_shapes(graph, spec, layer, stored[spec.path])
        layer.set_weights(stored[spec.path])
        if spec.kind == "Normalization":
            layer.finalize_state()


def _read_layer(file: h5py.File, spec: LayerSpec) -> list[NDArray[Any]]:
    """Return a layer's arrays in `model.weights.h5`."""
    arrays = []
    for part in _CELLS.get(spec.kind, ("",)):
        group = file.get(f"{spec.path}{part}vars")
        names = sorted(group, key=int) if isinstance(group, h5py.Group) else []
        arrays += [np.asarray(group[name]) for name in names]
    return arrays


def _read_legacy_weights(graph: KerasGraph, pairs: list[tuple[LayerSpec, Any]], file: h5py.File) -> dict[str, Any]:
    """Return the arrays of each layer in an `.h5`, by `LayerSpec.path`.

    The file lists the weights of each layer or model of the outermost model: the trainable ones first.
    """
    stored: dict[str, list[Any]] = {spec.path: [None] * len(layer.weights) for spec, layer in pairs}
    for owner in dict.fromkeys(spec.owner for spec, _ in pairs):
        places = [
            (spec, index, layer.trainable and index < _count_trainable(layer))
            for spec, layer in pairs
            if spec.owner == owner
            for index in range(len(layer.weights))
        ]
        places.sort(key=lambda place: not place[2])  # stable
        names = list(_iterate_weight_names(file[owner])) if owner in file else []
        if len(names) != len(places):
            raise make_broken_error(graph.path, f"layer {owner} needs {len(places)} weights, it holds {len(names)}")
        for name, (spec, index, _) in zip(names, places, strict=True):
            stored[spec.path][index] = np.asarray(file[owner][name])
    return stored


def _count_trainable(layer: Any) -> int:
    """Return how many of a layer's weights, the first ones, are trainable when the layer is."""
    trainable = layer.trainable
    layer.trainable = True
    count = len(layer.trainable_weights)
    layer.trainable = trainable
    return count


def _iterate_weight_names(group: h5py.Group) -> Iterator[str]:
    """Yield the names in the attribute `weight_names`, which is in pieces where it is long."""
    pieces = (f"weight_names{number}" for number in count())
    names = ["weight_names"] if "weight_names" in group.attrs else takewhile(group.attrs.__contains__, pieces)
    for name in names:
        for item in group.attrs[name]:
            yield item.decode() if isinstance(item, bytes) else str(item)


def _check_shapes(graph: KerasGraph, spec: LayerSpec, layer: Any, arrays: list[NDArray[Any]]) -> None:
    needed = [tuple(weight.shape) for weight in layer.weights]
    held = [array.shape for array in arrays]
    if needed != held:
        raise make_broken_error(graph.path, f"layer {spec.name} needs weights of shapes {needed}, it holds {held}")
