"""Rebuild a float `.tflite` as a Keras model, and compare the two on examples."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.backend import flatbuffer, sandbox
from lightexp.backend.litert import ExampleSpec
from lightexp.backend.tflite_layers.translation import KerasDescription, translate
from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.core.json_text import encode_json
from lightexp.core.layout import LayoutChoice

TOLERANCE = 1e-4
"""Largest accepted difference between the outputs of a file and of its rebuilt model, in parts of their range."""
_EXAMPLES = 16


def describe_model(path: Path, shape: tuple[int, ...], classes: int, layout: LayoutChoice = "auto") -> KerasDescription:
    """Translate a file without TensorFlow; see `tflite_layers.translation.translate`."""
    return translate(path, flatbuffer.read_graph(path), shape, classes, layout)


def load_model(path: Path, shape: tuple[int, ...], classes: int, layout: LayoutChoice = "auto") -> Any:
    """Return the Keras model that computes what a float `.tflite` does.

    Args:
        path: The file.
        shape: Shape of an example of the data.
        classes: Number of classes.
        layout: Order of the axes of the file's input; see `find_layout`. Defaults to `auto`.

    Raises:
        BadInput: As `describe_model`, or if Keras cannot build the model.
    """
    from lightexp.backend.session import import_keras

    description = describe_model(path, shape, classes, layout)
    try:
        model = import_keras().models.model_from_json(encode_json(description.config))
        for layer in model.layers:
            if layer.name in description.weights:
                layer.set_weights(description.weights[layer.name])
    except Exception as error:  # Keras raises many types for what it cannot build
        message = " ".join(str(error).rpartition("Exception encountered: ")[2].split())[:160]
        raise BadInput(f"{path} cannot be rebuilt as a Keras model ({message}). Use it without training.") from error
    return model


def run_file(path: Path, data: Data, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the outputs `(n, classes)` of a file, from LiteRT in the sandbox.

    Args:
        path: The file, which `describe_model` has accepted.
        data: The data set.
        inputs: Scaled examples `(n, *data.shape)`; they are put into the file's order of axes.

    Raises:
        BadInput: If LiteRT cannot run the file, or an output is NaN or infinite.
    """
    graph = flatbuffer.read_graph(path)
    order = describe_model(path, data.shape, data.outputs, data.layout).input_order
    shape = graph.tensors[graph.inputs[0]].shape[1:]
    arranged = inputs.transpose(0, *(axis + 1 for axis in order)).reshape(len(inputs), *shape)
    spec = ExampleSpec(data.name, shape, data.outputs, data.task.describe_outputs(data), 1.0, 0.0)
    outputs = sandbox.run_sandboxed("run_model", path, arranged, spec=asdict(spec), threads=1, batch=len(inputs))
    if not np.isfinite(outputs).all():
        raise BadInput(f"{path} gives NaN or infinity for examples of {data.name}. Train or get it again.")
    if outputs.shape[1] == math.prod(data.shape):  # an autoencoder's outputs are in the order of its inputs
        in_file_order = outputs.reshape(len(outputs), *(data.shape[axis] for axis in order))
        outputs = in_file_order.transpose(0, *(axis + 1 for axis in np.argsort(order))).reshape(outputs.shape)
    return outputs


def compare_outputs(model: Any, path: Path, data: Data) -> float:
    """Return the largest difference between a rebuilt model's outputs and its file's on training examples.

    Args:
        model: The rebuilt model, with a final softmax where the file has one.
        path: The file; it runs in the sandbox.
        data: The data set.

    Returns:
        The difference in parts of the range of the file's outputs.

    Raises:
        BadInput: As `run_file`, or if the difference exceeds `TOLERANCE`.
    """
    inputs = data.inputs(data.train.x[:_EXAMPLES])
    expected = run_file(path, data, inputs)
    outputs = model(inputs, training=False).numpy()
    spread = max(float(np.ptp(expected)), float(np.finfo(np.float32).tiny))
    difference = float(np.abs(outputs - expected).max()) / spread
    if not difference <= TOLERANCE:
        raise BadInput(
            f"{path} rebuilt as a Keras model gives other outputs than the file: they differ by {difference:.2g} of "
            f"their range, more than {TOLERANCE:g}. Use the file without training: pipeline=quantize."
        )
    return difference
