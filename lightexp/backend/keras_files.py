"""Keras models as files that hold no code: the architecture as JSON, the weights as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lightexp.backend import converter
from lightexp.backend.session import import_keras, reset_graph
from lightexp.core.protocols import TFLITE, Layer

ARCHITECTURE, WEIGHTS = "architecture.json", "weights.npz"


def save_model(model: Any, folder: Path) -> None:
    """Writes architecture, weights and the float32 flatbuffer of a model into `folder`."""
    (folder / ARCHITECTURE).write_text(model.to_json())
    np.savez(folder / WEIGHTS, **{f"w{i:04d}": w for i, w in enumerate(model.get_weights())})
    # From a model read back, so that layer numbers, and so the file's bytes, are the same whoever made it.
    (folder / TFLITE).write_bytes(converter.convert_to_float32(load_model(folder)))


def load_model(folder: Path, seed: int = 0) -> Any:
    """Reads a model that `save` wrote, after forgetting all graphs; a clone that may be changed freely."""
    reset_graph(seed)
    return rebuild_model(folder)


def rebuild_model(folder: Path) -> Any:
    """As `load`, beside the models that there are already."""
    model = import_keras().models.model_from_json((folder / ARCHITECTURE).read_text())
    with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
        model.set_weights([arrays[name] for name in sorted(arrays.files)])
    return model


def describe_layers(model: Any) -> list[Layer]:
    """The layers of a model that have weights, in order."""
    return [
        Layer(
            name=layer.name,
            kind=type(layer).__name__,
            kernel=_main_kernel(layer),
            parameters=int(sum(np.prod(w.shape) for w in layer.weights)),
            activation=getattr(getattr(layer, "activation", None), "__name__", ""),
        )
        for layer in model.layers
        if layer.weights
    ]


def _main_kernel(layer: Any) -> tuple[int, ...] | None:
    kernel = getattr(layer, "depthwise_kernel", None)
    kernel = kernel if kernel is not None else getattr(layer, "kernel", None)
    return None if kernel is None else tuple(int(n) for n in kernel.shape)
