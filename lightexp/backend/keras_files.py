"""Save and load Keras models without code: the architecture as JSON, the weights as NumPy arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lightexp.backend import converter
from lightexp.backend.kernels import find_kernel, list_divided, list_parts
from lightexp.backend.session import import_keras, reset_graph
from lightexp.core.artifact import TFLITE, WEIGHTS, Layer
from lightexp.core.json_text import encode_json

ARCHITECTURE = "architecture.json"


def save_model(model: Any, folder: Path) -> None:
    """Write a model's architecture, weights and float32 flatbuffer into `folder`."""
    (folder / ARCHITECTURE).write_text(encode_json(json.loads(model.to_json())), encoding="utf-8")
    np.savez(folder / WEIGHTS, **{f"w{i:04d}": w for i, w in enumerate(model.get_weights())})
    # Converted after loading, so that numbers in names, and so the bytes, do not depend on what the process did before.
    (folder / TFLITE).write_bytes(converter.convert_to_float32(load_model(folder)))


def load_model(folder: Path, seed: int = 0) -> Any:
    """Reset Keras' graphs and load a model that `save_model` wrote; the result may be changed freely.

    Args:
        folder: The model's folder.
        seed: Seed of all random generators from here on. Defaults to 0.
    """
    reset_graph(seed)
    return rebuild_model(folder)


def rebuild_model(folder: Path) -> Any:
    """Load a model that `save_model` wrote and keep the models that exist already."""
    model = import_keras().models.model_from_json((folder / ARCHITECTURE).read_text(encoding="utf-8"))
    with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
        model.set_weights([arrays[name] for name in sorted(arrays.files)])
    return model


def describe_layers(model: Any) -> list[Layer]:
    """Return descriptions of the layers that have weights, in the model's order."""
    return [
        Layer(
            name=layer.name,
            kind=type(layer).__name__,
            kernel=_get_kernel_shape(layer),
            parameters=int(sum(np.prod(w.shape) for w in layer.weights)),
            activation=getattr(getattr(layer, "activation", None), "__name__", ""),
            parts=(
                *((name, tuple(kernel.shape)) for name, kernel in list_parts(layer).items()),
                *((name, None) for name in list_divided(layer)),
            ),
        )
        for layer in model.layers
        if layer.weights
    ]


def _get_kernel_shape(layer: Any) -> tuple[int, ...] | None:
    kernel = find_kernel(layer)
    return None if kernel is None else tuple(int(n) for n in kernel.shape)
