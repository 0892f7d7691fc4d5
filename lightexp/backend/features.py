"""Match hidden layers of a model in training with its teacher's, for feature distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightexp.backend.session import import_keras, import_tensorflow
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.protocols import TrainingObjective

tf = import_tensorflow()

_CONVOLUTIONS = ("Conv1D", "Conv2D", "DepthwiseConv2D", "SeparableConv2D")


class FeatureMatcher:
    """The matched layers of one model and one teacher.

    Attributes:
        variables: Linear maps trained with the model, `(channels, teacher's channels)` each; empty if the objective
            does not adapt features.
    """

    def __init__(self, model: Any, teacher: Any, objective: TrainingObjective, seed: int) -> None:
        """Find the layers and create the linear maps.

        Args:
            model: The tf_keras model in training.
            teacher: The teacher's tf_keras model, which is not trained.
            objective: Names the layers and computes their loss.
            seed: Seed of the maps' initial values.

        Raises:
            BadInput: If a layer does not exist, or the outputs of a pair cannot be compared.
        """
        pairs = match_layers(model, teacher, objective)
        self._model = _expose_layers(model, list(pairs))
        self._teacher = _expose_layers(teacher, list(pairs.values()))
        self._objective = objective
        self.variables: list[Any] = []
        if objective.adapts:
            outputs = zip(self._model.outputs[1:], self._teacher.outputs[1:], strict=True)
            for number, (features, targets) in enumerate(outputs):
                shape = (features.shape[-1], targets.shape[-1])
                initial = tf.random.stateless_normal(shape, [seed, number], stddev=shape[0] ** -0.5)
                self.variables.append(tf.Variable(initial))

    def __call__(self, inputs: Any) -> tuple[Any, Any]:
        """Return the trained model's logits `(batch, classes)` and the layers' summed loss `(batch,)`."""
        logits, *features = self._model(inputs, training=True)
        _, *targets = self._teacher(inputs, training=False)
        if self.variables:
            features = [tf.tensordot(f, v, 1) for f, v in zip(features, self.variables, strict=True)]
        losses = [self._objective.feature_loss(f, t) for f, t in zip(features, targets, strict=True)]
        return logits, tf.add_n(losses)


def match_layers(model: Any, teacher: Any, objective: TrainingObjective) -> dict[str, str]:
    """Return the names of the model's matched layers with the teacher's, after checking that they can be compared.

    Args:
        model: The tf_keras model in training.
        teacher: The teacher's tf_keras model.
        objective: Names the layers; if it names none, layers with the same names are matched.

    Raises:
        BadInput: As `FeatureMatcher`.
    """
    pairs = objective.matched or _match_by_name(model, teacher)
    if not pairs:
        raise BadInput(
            "objective.layers: the model and its teacher have no convolution and no hidden dense layer of the same "
            "name. Name pairs: 'objective.layers={mine: theirs}'."
        )
    for name, teacher_name in pairs.items():
        shape = _find_output(model, name, "model").shape
        teacher_shape = _find_output(teacher, teacher_name, "teacher").shape
        if len(shape) != len(teacher_shape) or shape[1:-1] != teacher_shape[1:-1]:
            raise BadInput(
                f"objective.layers: '{name}' gives {shape[1:]} and the teacher's '{teacher_name}' "
                f"{teacher_shape[1:]}, which must agree in all but the last. Name layers that see maps of one size."
            )
        if not objective.adapts and len(shape) < 3:
            raise BadInput(f"objective.layers: '{name}' has no positions to look at, only {shape[1:]}. Use hint.")
    return dict(pairs)


def _match_by_name(model: Any, teacher: Any) -> Mapping[str, str]:
    """Match convolutions of the same name and kind; if there are none, dense layers except the last."""
    layers, teacher_layers = _list_outputs(model), _list_outputs(teacher)
    last = list(layers)[-1]
    shared = {
        name: kind for name, (kind, _) in layers.items() if name in teacher_layers and teacher_layers[name][0] == kind
    }
    convolutions = [name for name, kind in shared.items() if kind in _CONVOLUTIONS]
    dense = [name for name, kind in shared.items() if kind == "Dense" and name != last]
    return {name: name for name in convolutions or dense}


def _list_outputs(model: Any) -> dict[str, tuple[str, Any]]:
    """Return kind and output of each layer by name; a layer wrapped for 8-bit training keeps its own name."""
    pairs = [(getattr(layer, "layer", layer), layer) for layer in model.layers]
    return {inner.name: (type(inner).__name__, layer.output) for inner, layer in pairs}


def _find_output(model: Any, name: str, owner: str) -> Any:
    outputs = _list_outputs(model)
    if name not in outputs:
        raise BadInput(f"objective.layers: the {owner} has no layer '{name}': {suggest_nearest(name, outputs)}")
    return outputs[name][1]


def _expose_layers(model: Any, names: list[str]) -> Any:
    """Return a model of the same layers that also outputs what the named ones compute."""
    return import_keras().Model(model.inputs, [model.outputs[0], *(_list_outputs(model)[name][1] for name in names)])
