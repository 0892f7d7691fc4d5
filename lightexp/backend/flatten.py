"""Flatten Keras models from files: no models inside, no layers that augment data, no separable convolutions."""

from __future__ import annotations

from typing import Any

from lightexp.backend.keras_names import IDLE_LAYERS
from lightexp.backend.separable import SplitConvolution, is_separable
from lightexp.backend.session import import_keras, import_tensorflow
from lightexp.core import compat

tf = import_tensorflow()


def flatten_model(model: Any) -> Any:
    """Return an equivalent model without models inside, so that later stages see plain layers.

    Layers that augment data are left out. A `Normalization` that was adapted to data gets its mean and variance as
    settings: as weights they would be lost when the weights are set again, since the layer computes with copies. A
    separable convolution becomes a depthwise convolution `NAME_depthwise` and a convolution `NAME`.

    Other layers keep their names; where a name is taken, the name of the model that contained the layer is put before
    it. A layer or model that was called with a fixed `training` is called so in the result too.

    Args:
        model: A built Functional or Sequential model with one input.

    Returns:
        `model` itself if it contains nothing to change; else a Functional model with the same weights.
    """
    changes = (_is_model, _is_idle, _is_adapted, is_separable)
    if not any(changes_layer(layer) for layer in model.layers for changes_layer in changes):
        return model
    copier = _LayerCopier()
    batch, *shape = model.input_shape
    inputs = import_keras().Input(shape, batch, name=model.input_names[0], dtype=model.inputs[0].dtype)
    copier.names.add(model.input_names[0])
    flat = import_keras().Model(inputs, copier.call(model, [inputs], None), name=model.name)
    for layer, copy in copier.copies.values():
        if not _is_adapted(layer):
            copy.set_weights(layer.get_weights())
    return flat


def find_idle_layers(model: Any) -> list[str]:
    """Return the names of layers that augment data, which `flatten_model` leaves out."""
    nested = [name for layer in model.layers if _is_model(layer) for name in find_idle_layers(layer)]
    return [*(layer.name for layer in model.layers if _is_idle(layer)), *nested]


class _LayerCopier:
    """Copies of the layers of nested models, one for each layer however often it is called.

    Attributes:
        copies: Each layer and its copy, by the layer's id.
        names: Names that are taken.
    """

    def __init__(self) -> None:
        self.copies: dict[int, tuple[Any, Any]] = {}
        self.names: set[str] = set()

    def call(self, model: Any, inputs: list[Any], training: Any) -> list[Any]:
        """Call the copies of a model's layers in Keras' order.

        Args:
            model: The model, with models inside or without.
            inputs: Symbolic tensors in place of the model's inputs.
            training: The `training` that the model was called with, or None.

        Returns:
            The model's outputs.
        """
        tensors = {str(id(old)): new for old, new in zip(model.inputs, inputs, strict=True)}
        for node in compat.list_keras_nodes(model):
            if node.is_input:
                continue
            uses = len(node.flat_input_ids)  # `map_arguments` removes one item of the list for each use
            args, kwargs = node.map_arguments({key: [tensor] * uses for key, tensor in tensors.items()})
            fixed = training if kwargs.get("training") is None else kwargs["training"]
            if _is_model(node.layer):
                outputs = self.call(node.layer, tf.nest.flatten(args), fixed)
            elif _is_idle(node.layer):
                outputs = tf.nest.flatten(args)
            else:
                if fixed is not None and compat.expects_training(node.layer):
                    kwargs["training"] = fixed
                outputs = tf.nest.flatten(self._copy(node.layer, model.name)(*args, **kwargs))
            tensors |= dict(zip(node.flat_output_ids, outputs, strict=True))
        return [tensors[str(id(tensor))] for tensor in model.outputs]

    def _copy(self, layer: Any, owner: str) -> Any:
        """Return the layer's copy, made by the first call; `owner` is the model that contains the layer."""
        if id(layer) not in self.copies:
            name = layer.name
            while name in self.names:
                name = f"{owner}_{name}"
            self.names.add(name)
            if is_separable(layer):
                self.copies[id(layer)] = layer, SplitConvolution(layer, name)
                self.names.add(self.copies[id(layer)][1].depthwise.name)
            else:
                constants = _read_constants(layer) if _is_adapted(layer) else {}
                copy = type(layer).from_config({**layer.get_config(), **constants, "name": name})
                self.copies[id(layer)] = layer, copy
        return self.copies[id(layer)][1]


def _is_model(layer: Any) -> bool:
    return isinstance(layer, import_keras().Model)


def _is_idle(layer: Any) -> bool:
    return type(layer).__name__ in IDLE_LAYERS


def _is_adapted(layer: Any) -> bool:
    """Return whether a layer normalises by statistics of data, which are among its weights."""
    return type(layer).__name__ == "Normalization" and bool(layer.weights)


def _read_constants(layer: Any) -> dict[str, Any]:
    mean, variance, *_ = layer.get_weights()
    return {"mean": mean.tolist(), "variance": variance.tolist()}
