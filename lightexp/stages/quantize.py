"""Post-training quantisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lightexp.core.config import Count
from lightexp.core.flatmodel import FlatModel
from lightexp.core.protocols import TFLITE, Artifact, Context, Form, Invariant, Layer, Range, Stage, Teacher
from lightexp.stages.calibration import SAMPLES, CalibrationSet

_DYNAMIC_FROM = 1024  # weights; the converter leaves smaller tensors in float


@dataclass(frozen=True)
class Quantize(Stage):
    """Stores weights, and with `int8` and `int16x8` also activations, as small numbers, without training.

    Jacob et al. 2018 (arXiv 1712.05877). TensorFlow's converter does it on a Keras model, ai-edge-quantizer on a float
    `.tflite`.

    Attributes:
        scheme: `default` (`Optimize.DEFAULT`: int8 weights, activations quantised as they come), `float16` weights,
            `int8` (weights and activations) or `int16x8` (int16 activations, int8 weights). Defaults to `default`.
        io: Whether an `int8` or `int16x8` model takes and gives `float` or `integer` numbers. Defaults to `float`.
        calibration_samples: Examples of the train split from which the ranges of activations are taken, for `int8`
            and `int16x8`. Defaults to 200.
    """

    accepts = ("keras", "tflite")
    produces = "quantized"
    search = {"scheme": Range("choice(default, float16, int8)", strongest="int8")}
    scheme: Literal["default", "float16", "int8", "int16x8"] = "default"
    io: Literal["float", "integer"] = "float"
    calibration_samples: Count = 200

    def __post_init__(self) -> None:
        if self.io == "integer" and not self._calibrated:
            raise ValueError(f"io=integer needs scheme=int8 or int16x8. Received: scheme={self.scheme}.")

    def establishes(self) -> tuple[Invariant, ...]:
        """The data types of the weights."""
        return (Invariant("dtype"),)

    def preserves(self, invariant: Invariant) -> bool:
        """Zeros stay zeros."""
        return invariant.kind == "sparsity"

    def computes_with_tensorflow(self, form: Form) -> bool:
        """Only from a Keras model."""
        return form == "keras"

    def inputs(self) -> dict[str, Teacher | Stage]:
        """The calibration set, where one is needed."""
        return {"calibration": CalibrationSet(self.calibration_samples)} if self._calibrated else {}

    def touches(self, layers: Sequence[Layer]) -> list[tuple[str, str]]:
        """Each layer's data type; see `Stage.touches`."""
        words = []
        for layer in layers:
            size = int(np.prod(layer.kernel)) if layer.kernel else 0
            if not layer.kernel:
                words.append((layer.name, f"{layer.kind}: folded into its neighbours"))
            elif self.scheme == "default" and size < _DYNAMIC_FROM:
                words.append((layer.name, f"{layer.kind}: float32, fewer than {_DYNAMIC_FROM} weights"))
            else:
                words.append((layer.name, f"{layer.kind}: {'float16' if self.scheme == 'float16' else 'int8'} weights"))
        return words

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Converts the model; see `Stage.apply`."""
        if parent is None:
            raise TypeError("quantize starts from a model")
        samples = None
        if self._calibrated:
            context.progress.say(f"calibrating on {self.calibration_samples} examples")
            raw = np.load(context.inputs["calibration"].folder / SAMPLES, allow_pickle=False)
            samples = context.data.inputs(raw)
        if parent.form == "tflite":
            from lightexp.backend import apart

            given = np.empty(0, np.float32) if samples is None else samples
            settings = {"scheme": self.scheme, "integer_io": self.io == "integer"}
            content = apart.call("quantize", parent.tflite, given, **settings).tobytes()
        else:
            from lightexp.backend import convert, keras_files

            model = keras_files.load(parent.folder)
            content = convert.to_quantized(model, self.scheme, self.io == "integer", samples)
        (context.out / TFLITE).write_bytes(content)
        return {}

    def verify(self, kind: str, facts: Mapping[str, Any], shipped: FlatModel) -> str | None:
        """Checks the data types of the file's kernels; see `Stage.verify`."""
        wanted = "FLOAT16" if self.scheme == "float16" else "INT8"
        smallest = _DYNAMIC_FROM if self.scheme == "default" else 0
        for op, tensor in shipped.kernels:
            if tensor.dtype != wanted and int(np.prod(tensor.shape)) >= smallest:
                return f"the {op.kind} kernel '{tensor.name}' is {tensor.dtype}, was to be {wanted}"
        return None

    @property
    def _calibrated(self) -> bool:
        return self.scheme in ("int8", "int16x8")
