"""Score how important each channel of a Keras model is, by norms, BatchNorm scales, Taylor expansion or at random."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.backend.channels import ChannelGraph, get_output_axis
from lightexp.backend.losses import select_targets
from lightexp.backend.session import import_tensorflow
from lightexp.core.data import Data
from lightexp.core.errors import BadInput

tf = import_tensorflow()

_GRADIENT_EXAMPLES, _GRADIENT_BATCH = 1024, 32


def score_channels(
    model: Any, graph: ChannelGraph, criterion: str, seed: int, data: Data | None = None
) -> NDArray[np.float64]:
    """Return the importance of each channel of `graph`, `(graph.count,)`; the lowest are pruned first.

    Args:
        model: The model that the graph describes.
        graph: Its channels.
        criterion: One of

            * `l1` or `l2`: norm of the filters that compute the channel (Li et al. 2017, arXiv 1608.08710);
            * `bn_scale`: absolute scale in its batch normalisation (Liu et al. 2017, arXiv 1708.06519);
            * `taylor`: squared first-order change of the loss if its filters were removed, on 1,024 training
              examples (Molchanov et al. 2019, arXiv 1906.10771); needs `data`;
            * `random`.

            Scores of filters that share a channel are added.
        seed: Seed of `random`.
        data: The data set; used by `taylor`.

    Raises:
        BadInput: For `bn_scale`, if a channel that may be removed has no batch normalisation.
    """
    if criterion == "random":
        return np.random.default_rng(seed).random(graph.count)
    if criterion == "bn_scale":
        return _score_by_scale(model, graph)
    changes = _compute_loss_changes(model, graph, data) if criterion == "taylor" and data else {}
    scores = np.zeros(graph.count)
    for name, row in graph.output_channels.items():
        if name in changes:
            importance = changes[name]
        else:
            layer = model.get_layer(name)
            kernel = np.moveaxis(layer.kernel.numpy().astype(np.float64), get_output_axis(layer), -1)
            kernel = kernel.reshape(-1, len(row))
            importance = np.linalg.norm(kernel, axis=0) if criterion == "l2" else np.abs(kernel).sum(axis=0)
        np.add.at(scores, row, importance)
    return scores


def _score_by_scale(model: Any, graph: ChannelGraph) -> NDArray[np.float64]:
    normalized = {channel for row in graph.normalized_channels.values() for channel in row.tolist()}
    for group in graph.groups:
        if not normalized.issuperset(group.channels):
            raise BadInput(
                f"criterion=bn_scale needs batch normalisation. There is none after '{group.layers[0]}'. Use l1"
            )
    scores = np.zeros(graph.count)
    for name, row in graph.normalized_channels.items():
        layer = model.get_layer(name)
        np.add.at(scores, row, np.abs(layer.gamma.numpy()) if layer.scale else np.ones(len(row)))
    return scores


def _compute_loss_changes(model: Any, graph: ChannelGraph, data: Data) -> dict[str, NDArray[np.float64]]:
    """Return the squared first-order change of the loss without each filter, by layer, `(filters,)` each."""
    layers = [model.get_layer(name) for name in graph.output_channels]
    variables = [[layer.kernel, *([layer.bias] if layer.use_bias else [])] for layer in layers]
    all_variables = [variable for layer_variables in variables for variable in layer_variables]

    @tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
    def compute_changes(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            targets = select_targets(data.task, x, y)
            loss = tf.reduce_mean(data.task.compute_loss(model(x, training=False), targets))
        gradients = iter(tape.gradient(loss, all_variables, unconnected_gradients="zero"))
        changes = []
        for layer, layer_variables in zip(layers, variables, strict=True):
            kernel, *bias = [next(gradients) * variable for variable in layer_variables]
            if get_output_axis(layer) == -2:
                kernel = tf.linalg.matrix_transpose(kernel)
            products = [tf.reshape(product, [-1, product.shape[-1]]) for product in (kernel, *bias)]
            changes.append(tf.square(tf.add_n([tf.reduce_sum(product, axis=0) for product in products])))
        return changes

    rows = np.random.default_rng(0).permutation(len(data.train))[:_GRADIENT_EXAMPLES]
    changes = {name: np.zeros(len(row)) for name, row in graph.output_channels.items()}
    for start in range(0, len(rows), _GRADIENT_BATCH):
        batch = np.sort(rows[start : start + _GRADIENT_BATCH])
        batch_changes = compute_changes(data.inputs(data.train.x[batch]), data.train.y[batch])
        for name, values in zip(changes, batch_changes, strict=True):
            changes[name] += values.numpy()
    return changes
