"""MLflow's loader of a `.tflite` model. A copy of this file is stored with each model, so it imports no lightexp.

It needs `ai-edge-litert` and NumPy alone. Besides `model.tflite` the model's folder holds `model.json`:

- `shape`: shape of an example as its data set has it; `scale`, `offset`: the model's inputs are `x * scale + offset`.
- `layout`: order of the axes of the model's inputs, `auto`, `nhwc` or `nchw`.
- `labels`: names of the outputs, empty where they are numbers; `targets`: their `mean` and `std` where standardised.
"""

from __future__ import annotations

import json
import math
import os
import threading
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

_BATCH = 50  # examples of a call, unless the file fixes its batch size


def _load_pyfunc(path: str) -> TFLiteModel:
    """Return the model of a folder; MLflow calls this function by its name."""
    return TFLiteModel(path)


class TFLiteModel:
    """A `.tflite` model that takes examples as their data set has them, and gives real numbers."""

    def __init__(self, folder: str) -> None:
        """Read the folder's `model.tflite` and `model.json`."""
        with open(os.path.join(folder, "model.json"), encoding="utf-8") as file:
            self._facts: dict[str, Any] = json.load(file)
        self._interpreter: Any = Interpreter(os.fsencode(os.path.join(folder, "model.tflite")), num_threads=1)
        (self._source,), (self._sink,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._lock = threading.Lock()  # an interpreter serves one request at a time

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> NDArray[Any]:
        """Return the outputs of examples.

        Args:
            model_input: Examples `(n, *shape)` before scaling, such as pixels from 0 to 255.
            params: With `labels` true, the name of the largest output of each example is returned. Defaults to None.

        Returns:
            Outputs `(n, outputs)` in float32: quantised ones as real values, standardised ones in their own unit; or
            labels `(n,)`.

        Raises:
            ValueError: If the examples have another shape.
        """
        shape = tuple(self._facts["shape"])
        examples = np.asarray(model_input, np.float32)
        if examples.shape[1:] != shape:
            raise ValueError(f"The model takes examples of shape {shape}. Received: an array of shape {examples.shape}")
        with self._lock:
            batch = self._allocate(len(examples))
            parts = [self._run(examples[start : start + batch], batch) for start in range(0, len(examples), batch)]
        outputs = np.concatenate(parts) if parts else np.zeros((0, len(self._facts["labels"])), np.float32)
        if params and params.get("labels"):
            return np.array([self._facts["labels"][index] for index in outputs.argmax(axis=1)])
        return outputs

    def _allocate(self, count: int) -> int:
        """Prepare the interpreter for batches of examples, and return how many are in one."""
        batch, *sizes = map(int, self._source["shape_signature"])
        sizes = list(self._facts["shape"]) if -1 in sizes else sizes
        if batch != -1:
            self._resize((batch, *sizes))
            return batch
        try:
            self._resize((min(_BATCH, max(count, 1)), *sizes))
            return min(_BATCH, max(count, 1))
        except RuntimeError:  # some files declare an open batch size that their operators do not support
            self._resize((1, *sizes))
            return 1

    def _resize(self, shape: tuple[int, ...]) -> None:
        self._interpreter.resize_tensor_input(self._source["index"], shape)
        self._interpreter.allocate_tensors()

    def _run(self, examples: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
        shape = tuple(self._facts["shape"])
        expected = tuple(map(int, self._interpreter.get_input_details()[0]["shape"]))[1:]
        channels_first = takes_channels_first(shape, expected, self._facts["layout"])
        scaled = examples * np.asarray(self._facts["scale"], np.float32) + np.asarray(self._facts["offset"], np.float32)
        arranged = np.moveaxis(scaled, -1, 1) if channels_first else scaled
        inputs = np.zeros((batch, *expected), np.float32)
        inputs[: len(examples)] = arranged.reshape(len(examples), *expected)
        self._interpreter.set_tensor(self._source["index"], _quantize(inputs, self._source))
        self._interpreter.invoke()
        outputs = _dequantize(self._interpreter.get_tensor(self._sink["index"])[: len(examples)], self._sink)
        if channels_first and math.prod(outputs.shape[1:]) == math.prod(shape):  # an autoencoder's
            outputs = np.moveaxis(outputs.reshape(len(outputs), shape[-1], *shape[:-1]), 1, -1)
        outputs = outputs.reshape(len(outputs), -1)
        if targets := self._facts.get("targets"):
            outputs = outputs * np.asarray(targets["std"], np.float32) + np.asarray(targets["mean"], np.float32)
        return outputs


def takes_channels_first(shape: tuple[int, ...], expected: tuple[int, ...], layout: str) -> bool:
    """Return whether the last axis of examples is the first of the model's inputs.

    Axes of length 1 may differ, and either may be flat.

    Args:
        shape: Shape of an example, with the channel last.
        expected: Shape of an input.
        layout: `nhwc`, `nchw`, or `auto`: channels stay last where both fit.
    """
    if len(shape) < 2 or layout == "nhwc":
        return False
    fits = []
    for order in (shape, (shape[-1], *shape[:-1])):
        lengths, inputs = (tuple(length for length in sizes if length > 1) for sizes in (order, expected))
        fits.append(lengths == inputs or min(len(lengths), len(inputs)) <= 1)
    return fits[1] if layout == "nchw" else not fits[0]


def _quantize(values: NDArray[np.float32], details: dict[str, Any]) -> NDArray[Any]:
    """Return real values as the tensor's integers; unchanged for float32."""
    if details["dtype"] is np.float32:
        return values
    scale, zero_point = details["quantization"]
    limits = np.iinfo(details["dtype"])
    integers = np.rint(values / np.float32(scale)) + np.float32(zero_point)
    quantized: NDArray[Any] = np.clip(integers, limits.min, limits.max).astype(details["dtype"])
    return quantized


def _dequantize(values: NDArray[Any], details: dict[str, Any]) -> NDArray[np.float32]:
    """Return the real values that the tensor's integers stand for; unchanged for float32."""
    if details["dtype"] is np.float32:
        return values
    scale, zero_point = details["quantization"]
    return (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
