"""What the hidden layers of a model in training give, beside what its teacher's do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from lightexp.backend.session import import_keras
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.protocols import TrainingObjective

_SPATIAL = ("Conv1D", "Conv2D", "DepthwiseConv2D", "SeparableConv2D")


class FeatureMatcher:
    """The matched layers of one model and one teacher.

    Attributes:
        variables: The linear maps that are trained with the model, `(channels, teacher's channels)` each; none where
            the objective does not adapt.
    """

    def __init__(self, model: Any, teacher: Any, objective: TrainingObjective, seed: int) -> None:
        """Finds the layers.

        Args:
            model: The tf_keras model in training.
            teacher: The teacher's tf_keras model, which stays as it is.
            objective: Says which layers, and what their loss is.
            seed: Of the maps' initial values.

        Raises:
            BadInput: If a layer is not there, or what a pair gives cannot be compared.
        """
        chosen = match_layers(model, teacher, objective)
        self._model, self._teacher = _opened(model, list(chosen)), _opened(teacher, list(chosen.values()))
        self._objective = objective
        self.variables = []
        if objective.adapts:
            for number, (mine, theirs) in enumerate(
                zip(self._model.outputs[1:], self._teacher.outputs[1:], strict=True)
            ):
                shape = (mine.shape[-1], theirs.shape[-1])
                initial = tf.random.stateless_normal(shape, [seed, number], stddev=shape[0] ** -0.5)
                self.variables.append(tf.Variable(initial))

    def __call__(self, inputs: Any) -> tuple[Any, Any]:
        """Logits `(batch, classes)` of the model in training and the layers' summed loss `(batch,)`."""
        logits, *mine = self._model(inputs, training=True)
        _, *theirs = self._teacher(inputs, training=False)
        if self.variables:
            mine = [tf.tensordot(m, v, 1) for m, v in zip(mine, self.variables, strict=True)]
        losses = [self._objective.feature_loss(m, t) for m, t in zip(mine, theirs, strict=True)]
        return logits, tf.add_n(losses)


def match_layers(model: Any, teacher: Any, objective: TrainingObjective) -> dict[str, str]:
    """The model's layers and the teacher's that they are compared with, checked; see `Features`."""
    wanted = objective.matched or _same(model, teacher)
    if not wanted:
        raise BadInput(
            "objective.layers: the model and its teacher have no convolution and no hidden dense layer of the same "
            "name. Name pairs: 'objective.layers={mine: theirs}'."
        )
    for mine, theirs in wanted.items():
        shapes = [_layer(model, mine, "model").shape, _layer(teacher, theirs, "teacher").shape]
        if len(shapes[0]) != len(shapes[1]) or shapes[0][1:-1] != shapes[1][1:-1]:
            raise BadInput(
                f"objective.layers: '{mine}' gives {shapes[0][1:]} and the teacher's '{theirs}' {shapes[1][1:]}, which "
                "must agree in all but the last. Name layers that see maps of one size."
            )
        if not objective.adapts and len(shapes[0]) < 3:
            raise BadInput(f"objective.layers: '{mine}' has no positions to look at, only {shapes[0][1:]}. Use hint.")
    return dict(wanted)


def _same(model: Any, teacher: Any) -> Mapping[str, str]:
    theirs, last = _named(teacher), list(_named(model))[-1]
    shared = {n: kind for n, (kind, _) in _named(model).items() if n in theirs and theirs[n][0] == kind}
    spatial = [name for name, kind in shared.items() if kind in _SPATIAL]
    dense = [name for name, kind in shared.items() if kind == "Dense" and name != last]
    return {name: name for name in spatial or dense}


def _named(model: Any) -> dict[str, tuple[str, Any]]:
    """Kind and output of each layer by its name; those that 8-bit training wraps by the names they had."""
    inner = [(getattr(layer, "layer", layer), layer) for layer in model.layers]
    return {named.name: (type(named).__name__, layer.output) for named, layer in inner}


def _layer(model: Any, name: str, whose: str) -> Any:
    layers = _named(model)
    if name not in layers:
        raise BadInput(f"objective.layers: the {whose} has no layer '{name}': {suggest_nearest(name, layers)}")
    return layers[name][1]


def _opened(model: Any, names: list[str]) -> Any:
    """The same layers as a model that also gives what the named ones do."""
    return import_keras().Model(model.inputs, [model.outputs[0], *(_named(model)[name][1] for name in names)])
