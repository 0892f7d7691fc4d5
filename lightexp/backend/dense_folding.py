"""Fold batch normalisations into the dense layers before them, which computes the same with fewer operators."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.backend.session import import_keras


def find_foldable(model: Any) -> dict[str, str]:
    """Return the names of batch normalisations that can be folded, each with that of its dense layer.

    Args:
        model: A flat Keras model.
    """
    foldable = {}
    for layer in model.layers:
        if type(layer).__name__ != "BatchNormalization" or len(layer.inbound_nodes) != 1:
            continue
        dense = layer.inbound_nodes[0].inbound_layers
        is_linear_dense = type(dense).__name__ == "Dense" and dense.activation.__name__ == "linear"
        if is_linear_dense and len(dense.input_shape) == 2 and len(dense.outbound_nodes) == 1:
            foldable[layer.name] = dense.name
    return foldable


def fold_normalizations(model: Any) -> Any:
    """Return a model that computes the same without the batch normalisations behind dense layers.

    Args:
        model: A flat Keras model; not changed.

    Returns:
        A model with new layers of the same names; `model` itself if there is nothing to fold.
    """
    foldable = find_foldable(model)
    if not foldable:
        return model
    keras = import_keras()
    config = keras.Model(model.inputs, model.outputs, name=model.name).get_config()
    config["layers"] = [entry for entry in config["layers"] if entry["name"] not in foldable]
    for entry in config["layers"]:
        entry["inbound_nodes"] = _redirect(entry["inbound_nodes"], foldable)
        if entry["name"] in foldable.values():
            entry["config"]["use_bias"] = True
    config["output_layers"] = _redirect(config["output_layers"], foldable)
    folded = keras.Model.from_config(config)
    normalizations = {dense: model.get_layer(norm) for norm, dense in foldable.items()}
    for layer in folded.layers:
        original = model.get_layer(layer.name) if layer.weights else None
        if layer.name in normalizations:
            layer.set_weights(_compute_weights(original, normalizations[layer.name]))
        elif original is not None:
            layer.set_weights(original.get_weights())
    return folded


def _redirect(node: Any, foldable: dict[str, str]) -> Any:
    """Return a part of a config in which references to folded layers name their dense layers."""
    if isinstance(node, dict):
        return {key: _redirect(value, foldable) for key, value in node.items()}
    if not isinstance(node, list | tuple):
        return node
    if len(node) >= 3 and isinstance(node[0], str) and node[0] in foldable:
        return [foldable[node[0]], *node[1:]]
    return [_redirect(inner, foldable) for inner in node]


def _compute_weights(dense: Any, normalization: Any) -> list[NDArray[np.float32]]:
    """Return kernel and bias of a dense layer with its normalisation."""
    mean, variance = normalization.moving_mean.numpy(), normalization.moving_variance.numpy()
    scale = 1 / np.sqrt(variance.astype(np.float64) + normalization.epsilon)
    if normalization.scale:
        scale *= normalization.gamma.numpy()
    bias = (dense.bias.numpy() if dense.use_bias else 0.0) - mean
    shift = normalization.beta.numpy() if normalization.center else 0.0
    return [(dense.kernel.numpy() * scale).astype(np.float32), (bias * scale + shift).astype(np.float32)]
