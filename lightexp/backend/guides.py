"""Compares layers of a model in training with those of a teacher, inside the training graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from lightexp.backend.session import keras
from lightexp.core.errors import BadInput


def activated(model: Any) -> dict[str, Any]:
    """The outputs of a model's layers that end in an activation, but for the last layer's, in order."""
    found = {}
    for layer in model.layers[:-1]:
        inner = getattr(layer, "layer", layer)  # as it was, where 8-bit training has wrapped it
        name = getattr(getattr(inner, "activation", None), "__name__", "linear")
        if type(inner).__name__.endswith("ReLU") or name not in ("linear", "NoOpActivation"):
            found[inner.name] = layer.output
    return found


class Guide:
    """What the layers of a model add to its loss."""

    def __init__(self, student: Any, teacher: Any, pairs: Mapping[str, str], kind: Any, beta: float) -> None:
        """Gives access to the layers.

        Args:
            student: The Keras model in training.
            teacher: A trained Keras model of the same inputs.
            pairs: Names of its layers, and of the teacher's.
            kind: `Regressor` or `AttentionMaps`.
            beta: Weight.

        Raises:
            BadInput: If two layers cannot be compared.
        """
        mine, theirs = activated(student), activated(teacher)
        for name, other in pairs.items():
            if len(mine[name].shape) != len(theirs[other].shape):
                shapes = f"{tuple(mine[name].shape[1:])} and {tuple(theirs[other].shape[1:])}"
                raise BadInput(f"layers: {name} and the teacher's {other} cannot be compared: {shapes}.")
        self._student = keras().Model(student.inputs, [student.output, *(mine[name] for name in pairs)])
        self._teacher = keras().Model(teacher.inputs, [theirs[other] for other in pairs.values()])
        self._distances = [kind(mine[name].shape, theirs[other].shape) for name, other in pairs.items()]
        self._beta = beta
        self.variables = [variable for distance in self._distances for variable in distance.variables]

    def __call__(self, inputs: Any) -> tuple[Any, Any]:
        """The model's logits in training, and what its layers add to the loss of each example."""
        logits, *mine = self._student(inputs, training=True)
        theirs = tf.nest.flatten(self._teacher(inputs, training=False))
        apart = [d(a, tf.stop_gradient(b)) for d, a, b in zip(self._distances, mine, theirs, strict=True)]
        return logits, self._beta * tf.add_n(apart)


class Regressor:
    """Mean squared difference to a teacher's layer, from channels brought to its number by a trained 1x1 layer."""

    def __init__(self, mine: Any, theirs: Any) -> None:
        """Makes the regressor, from shapes `(n, ..., channels)`."""
        limit = (6 / (mine[-1] + theirs[-1])) ** 0.5
        start = tf.random.stateless_uniform((mine[-1], theirs[-1]), seed=[0, 0], minval=-limit, maxval=limit)
        self.variables = [tf.Variable(start), tf.Variable(tf.zeros(theirs[-1]))]

    def __call__(self, mine: Any, theirs: Any) -> Any:
        """Of each example, `(n,)`."""
        weights, bias = self.variables
        difference = tf.tensordot(_resized(mine, theirs), weights, 1) + bias - theirs
        return tf.reduce_mean(tf.square(difference), axis=list(range(1, len(theirs.shape))))


class AttentionMaps:
    """Squared difference of normalised maps of the mean square over channels."""

    def __init__(self, mine: Any, theirs: Any) -> None:
        """Needs nothing that is trained."""
        self.variables: list[Any] = []

    def __call__(self, mine: Any, theirs: Any) -> Any:
        """Of each example, `(n,)`."""
        maps = [tf.reduce_mean(tf.square(x), axis=-1, keepdims=True) for x in (mine, theirs)]
        flat = [tf.reshape(x, [tf.shape(x)[0], -1]) for x in (_resized(maps[0], maps[1]), maps[1])]
        mine, theirs = (tf.math.l2_normalize(x, axis=1) for x in flat)
        return tf.reduce_sum(tf.square(mine - theirs), axis=1)


def _resized(mine: Any, theirs: Any) -> Any:
    """A map at the size of another, `(n, height, width, c)` or `(n, width, c)`."""
    size = theirs.shape[1:-1]
    if mine.shape[1:-1] == size:
        return mine
    if len(size) == 1:
        return tf.squeeze(tf.image.resize(mine[:, None], (1, *size)), axis=1)
    return tf.image.resize(mine, size)
