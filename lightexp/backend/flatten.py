"""Models inside models, as people build on a backbone: taken apart into one flat model."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from lightexp.backend.session import import_keras


def flatten_model(model: Any) -> Any:
    """The same function without models inside, so that every later stage sees plain layers.

    A layer keeps its name; where another has it already, it stands behind the name of the model that it was in. A layer
    (or a model) that was called with a fixed `training` is called so here too.

    Args:
        model: A Functional or Sequential model of one input that has been built, with models inside or without.

    Returns:
        The model itself where it holds no other; else a Functional one with the same weights.
    """
    if not any(map(_is_model, model.layers)):
        return model
    copies = _Copies()
    batch, *shape = model.input_shape
    inputs = import_keras().Input(shape, batch, name=model.input_names[0], dtype=model.inputs[0].dtype)
    copies.names.add(model.input_names[0])
    flat = import_keras().Model(inputs, copies.run(model, [inputs], None), name=model.name)
    for layer, copy in copies.made.values():
        copy.set_weights(layer.get_weights())
    return flat


class _Copies:
    """Copies of the layers of all the models, each made once however often it is called."""

    def __init__(self) -> None:
        self.made: dict[int, tuple[Any, Any]] = {}
        self.names: set[str] = set()

    def run(self, model: Any, inputs: list[Any], training: Any) -> list[Any]:
        """Calls the copies of a model's layers, in the order in which Keras would call the layers."""
        known = {str(id(mine)): given for mine, given in zip(model.inputs, inputs, strict=True)}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                often = len(node.flat_input_ids)  # Keras takes one away for each use
                args, kwargs = node.map_arguments({key: [tensor] * often for key, tensor in known.items()})
                fixed = training if kwargs.get("training") is None else kwargs["training"]
                if _is_model(node.layer):
                    found = self.run(node.layer, tf.nest.flatten(args), fixed)
                else:
                    if fixed is not None and node.layer._expects_training_arg:
                        kwargs["training"] = fixed
                    found = tf.nest.flatten(self._copy(node.layer, model.name)(*args, **kwargs))
                known |= dict(zip(node.flat_output_ids, found, strict=True))
        return [known[str(id(tensor))] for tensor in model.outputs]

    def _copy(self, layer: Any, owner: str) -> Any:
        if id(layer) not in self.made:
            name = layer.name
            while name in self.names:
                name = f"{owner}_{name}"
            self.names.add(name)
            self.made[id(layer)] = layer, type(layer).from_config({**layer.get_config(), "name": name})
        return self.made[id(layer)][1]


def _is_model(layer: Any) -> bool:
    return isinstance(layer, import_keras().Model)
