"""How much each channel of a Keras model matters."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from lightexp.backend.channels import ChannelGraph
from lightexp.backend.losses import compute_cross_entropy
from lightexp.core.data import Data
from lightexp.core.errors import BadInput

_EXAMPLES, _BATCH = 1024, 32  # of the train split, for gradients


def score_channels(
    model: Any, graph: ChannelGraph, criterion: str, seed: int, data: Data | None = None
) -> NDArray[np.float64]:
    """The score of each channel of `graph`; the lowest go first.

    Args:
        model: The model that the graph is of.
        graph: Its channels.
        criterion: `l1` or `l2` norm of the filters that make it (Li et al. 2017, arXiv 1608.08710); `bn_scale`, the
            size of its scale in batch normalisation (Liu et al. 2017, arXiv 1708.06519); `taylor`, the squared
            first-order change of the loss if its filters went, on 1,024 examples of train (Molchanov et al. 2019,
            arXiv 1906.10771); `random`. Scores of filters that share a channel are added.
        seed: Of `random`.
        data: For `taylor`.

    Raises:
        BadInput: For `bn_scale`, if channels that may go are not normalised.
    """
    if criterion == "random":
        return np.random.default_rng(seed).random(graph.count)
    scores = np.zeros(graph.count)
    if criterion == "bn_scale":
        normalised = {channel for row in graph.normalized_channels.values() for channel in row.tolist()}
        for space in graph.groups:
            if not normalised.issuperset(space.channels):
                raise BadInput(
                    f"criterion=bn_scale needs batch normalisation. There is none after '{space.layers[0]}'. Take l1"
                )
        for name, row in graph.normalized_channels.items():
            layer = model.get_layer(name)
            np.add.at(scores, row, np.abs(layer.gamma.numpy()) if layer.scale else np.ones(len(row)))
        return scores
    filters = _taylor(model, graph, data) if criterion == "taylor" and data else {}
    for name, row in graph.output_channels.items():
        kernel = model.get_layer(name).kernel.numpy().astype(np.float64).reshape(-1, len(row))
        norms = {"l1": np.abs(kernel).sum(axis=0), "l2": np.linalg.norm(kernel, axis=0)}
        np.add.at(scores, row, filters.get(name, norms.get(criterion, norms["l1"])))
    return scores


def _taylor(model: Any, graph: ChannelGraph, data: Data) -> dict[str, NDArray[np.float64]]:
    layers = [model.get_layer(name) for name in graph.output_channels]
    variables = [[layer.kernel, *([layer.bias] if layer.use_bias else [])] for layer in layers]
    flat = [variable for of_layer in variables for variable in of_layer]

    @tf.function(reduce_retracing=True, autograph=False)
    def changes(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(compute_cross_entropy(model(x, training=False), y))
        slopes = iter(tape.gradient(loss, flat, unconnected_gradients="zero"))
        products = [
            [tf.reduce_sum(tf.reshape(next(slopes) * v, [-1, v.shape[-1]]), axis=0) for v in of_layer]
            for of_layer in variables
        ]
        return [tf.square(tf.add_n(of_layer)) for of_layer in products]

    rows = np.random.default_rng(0).permutation(len(data.train))[:_EXAMPLES]
    found = {layer.name: np.zeros(layer.kernel.shape[-1]) for layer in layers}
    for first in range(0, len(rows), _BATCH):
        batch = np.sort(rows[first : first + _BATCH])
        for name, values in zip(found, changes(data.inputs(data.train.x[batch]), data.train.y[batch]), strict=True):
            found[name] += values.numpy()
    return found
