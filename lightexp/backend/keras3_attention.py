"""Multi-head attention of Keras 3 as dense layers and two products of matrices, so that stages know its kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.backend.keras3_graph import LayerSpec
from lightexp.backend.session import import_keras, import_tensorflow

_SETTINGS = {
    "attention_axes": (None, [1]),
    "bias_constraint": (None,),
    "kernel_constraint": (None,),
    "output_shape": (None,),
    "sliding_window": (None,),
    "use_gate": (None, False),
}
"""Values of settings that are rebuilt."""


class AttentionLayers:
    """The layers that compute what a `MultiHeadAttention` does (Vaswani et al. 2017, arXiv 1706.03762).

    The projections are dense layers `NAME_query`, `NAME_key`, `NAME_value` and `NAME_output`, over all heads.

    Attributes:
        trainable: Whether the layer is trained.
    """

    def __init__(self, spec: LayerSpec, make_layer: Callable[[LayerSpec], Any]) -> None:
        """Create the projections.

        Args:
            spec: The attention.
            make_layer: Makes a layer of legacy Keras.

        Raises:
            NotImplementedError: If a setting has a value that is not supported.
        """
        config = spec.config
        for key, known in _SETTINGS.items():
            if config.get(key) not in known:
                raise NotImplementedError(f"with {key}={config[key]}")
        self._spec, self._make_layer = spec, make_layer
        self._heads, self._key_width = int(config["num_heads"]), int(config["key_dim"])
        self._value_width = int(config.get("value_dim") or self._key_width)
        self.trainable = bool(config.get("trainable", True))
        widths = {"query": self._key_width, "key": self._key_width, "value": self._value_width}
        self._projections = {role: self._make_projection(role, self._heads * width) for role, width in widths.items()}

    def __call__(self, query: Any, value: Any, key: Any = None) -> Any:
        """Return what the query `(n, steps, width)` gathers from the value, `(n, steps, width)`.

        Raises:
            NotImplementedError: If the inputs are no sequences of fixed lengths.
        """
        key = value if key is None else key
        if any(len(x.shape) != 3 or None in x.shape[1:] for x in (query, value, key)):
            raise NotImplementedError("of inputs that are no sequences of fixed lengths")
        if "output" not in self._projections:
            self._projections["output"] = self._make_projection("output", query.shape[-1])
        layers, name, tf = import_keras().layers, self._spec.name, import_tensorflow()
        scaled = layers.Rescaling(1 / math.sqrt(self._key_width), name=f"{name}_scale")
        queries = scaled(self._split_heads("query", query, (2, 1, 3)))
        scores = tf.matmul(queries, self._split_heads("key", key, (2, 3, 1)))
        weights = layers.Softmax(name=f"{name}_softmax")(scores)
        if rate := float(self._spec.config.get("dropout") or 0):
            weights = layers.Dropout(rate, name=f"{name}_dropout")(weights)
        gathered = tf.matmul(weights, self._split_heads("value", value, (2, 1, 3)))
        gathered = layers.Permute((2, 1, 3), name=f"{name}_steps")(gathered)
        width = self._heads * self._value_width
        gathered = layers.Reshape((query.shape[1], width), name=f"{name}_join")(gathered)
        return self._projections["output"](gathered)

    @property
    def weights(self) -> list[NDArray[np.float32]]:
        """Zeros of the shapes that the weights have in the file."""
        arrays = []
        for role, layer in self._projections.items():
            inputs, units = layer.kernel.shape
            if role == "output":
                shapes = [(self._heads, self._value_width, units), (units,)]
            else:
                shapes = [(inputs, self._heads, units // self._heads), (self._heads, units // self._heads)]
            arrays += [np.zeros(shape, np.float32) for shape in shapes[: len(layer.weights)]]
        return arrays

    @property
    def trainable_weights(self) -> list[NDArray[np.float32]]:
        """All weights if the layer is trained."""
        return self.weights if self.trainable else []

    def set_weights(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Set the weights from those of the file: of query, key, value and output."""
        remaining = iter(arrays)
        for layer in self._projections.values():
            layer.set_weights([next(remaining).reshape(weight.shape) for weight in layer.weights])

    def _make_projection(self, role: str, units: int) -> Any:
        config = {"units": units, "use_bias": self._spec.config.get("use_bias", True), "trainable": self.trainable}
        for key in ("kernel_regularizer", "bias_regularizer"):
            config[key] = self._spec.config.get(key)
        spec = replace(self._spec, name=f"{self._spec.name}_{role}", kind="Dense", config=config)
        return self._make_layer(spec)

    def _split_heads(self, role: str, x: Any, order: tuple[int, int, int]) -> Any:
        """Return a projection with axes (steps, heads, width) put in an order, counted from 1."""
        layers, name = import_keras().layers, f"{self._spec.name}_{role}"
        projected = self._projections[role](x)
        heads = (x.shape[1], self._heads, projected.shape[-1] // self._heads)
        return layers.Permute(order, name=f"{name}_order")(layers.Reshape(heads, name=f"{name}_heads")(projected))
