"""Find weights that are NaN, infinite or beyond all reason in the files of an artifact."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.backend import flatbuffer
from lightexp.core.artifact import TFLITE, WEIGHTS
from lightexp.core.tflite_graph import Tensor, TFLiteGraph

MAX_WEIGHT = 1e19
"""Magnitude of a weight whose square overflows float32; weights of 1e30 kill TensorFlow's converter."""


def find_broken_weight(folder: Path) -> str | None:
    """Return where a weight in an artifact's folder is NaN, infinite or beyond `MAX_WEIGHT`; None if none is.

    Args:
        folder: The folder of an artifact, with a `.tflite` and the weights of a Keras model, or neither.
    """
    file, weights = folder / TFLITE, folder / WEIGHTS
    if file.is_file() and (broken := find_broken_constant(flatbuffer.read_graph(file))):
        return f"'{broken}' in its {TFLITE}"
    if weights.is_file():
        with np.load(weights, allow_pickle=False) as arrays:
            for name in arrays.files:
                if is_broken(arrays[name]):
                    return f"'{name}' in its {WEIGHTS}"
    return None


def find_broken_constant(graph: TFLiteGraph) -> str | None:
    """Return the name of a constant of a `.tflite` that spoils its outputs; None if there is none.

    NaN spoils them anywhere. Infinities and huge numbers do so in kernels, biases and quantisation scales, but may be
    meant elsewhere: as the value that a maximum pooling is padded with, or in the mask of an attention.
    """
    operands = {id(tensor) for tensor in _list_operands(graph)}
    for tensor in graph.tensors:
        limit = MAX_WEIGHT if id(tensor) in operands else math.inf
        data = np.empty(0) if tensor.data is None else tensor.data
        if is_broken(data, limit) or is_broken(np.array(tensor.scales)):
            return tensor.name
    return None


def _list_operands(graph: TFLiteGraph) -> Iterator[Tensor]:
    """Yield the kernels of computing operators, and what else these read, such as biases."""
    for op, kernel in graph.kernels:
        yield kernel
        yield from (graph.tensors[index] for index in op.inputs[1:] if index >= 0)


def is_broken(values: NDArray[Any], limit: float = MAX_WEIGHT) -> bool:
    """Check whether an array of floats holds NaN, or a magnitude beyond a limit."""
    return values.dtype.kind == "f" and not float(np.abs(values).max(initial=0)) <= limit
