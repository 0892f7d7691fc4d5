"""Post-training quantisation of a float `.tflite` or a Keras model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np

from lightexp.core.config import Count, NonNegative, settings_dataclass
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.protocols import (
    TFLITE,
    Artifact,
    Context,
    Form,
    Input,
    Invariant,
    InvariantFamily,
    InvariantKind,
    Layer,
    Range,
    Stage,
)
from lightexp.core.sensitivity import SENSITIVITY_FACT, SensitivityTable, choose_fewest_bits
from lightexp.core.tflite_graph import Operator, Tensor, TFLiteGraph, extract_layer_names
from lightexp.models.from_file import try_on_example
from lightexp.stages.calibration import RANGES_FILE, Calibration
from lightexp.stages.io_types import IoType, check_io_types
from lightexp.stages.kernel_format import KernelFormat, format_type
from lightexp.stages.quantization_notes import AS_REQUESTED, list_float_tensors, make_note
from lightexp.stages.sensitivity import Sensitivity, sensitivity_table

_DEFAULT_MIN_WEIGHTS = 1024  # the converter leaves smaller tensors in float
_OPERATORS = {"Dense": "FULLY_CONNECTED", "Conv2D": "CONV_2D", "Conv1D": "CONV_2D", "Conv3D": "CONV_3D"}
NARROW_OPERATORS = {  # operators that LiteRT computes correctly with fewer than 8 bits
    2: ("FULLY_CONNECTED",),  # LiteRT accepts a 2-bit CONV_2D, too, but computes wrong results
    4: ("FULLY_CONNECTED", "CONV_2D"),
}
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "Bidirectional")  # unrolled into dense layers
_BITS = {"INT2": 2, "INT4": 4, "INT8": 8, "FLOAT16": 16, "FLOAT32": 32}
_BIAS_TYPES = {"int8": "INT32", "int16x8": "INT64"}
_IO_TYPES = {"int8": "INT8", "int16x8": "INT16"}


@settings_dataclass
class Quantize(Stage):
    """Quantise weights, and with `int8` and `int16x8` also activations, without training.

    Jacob et al. 2018 (arXiv 1712.05877). litert-quantizer quantises the float `.tflite`, also that of a Keras model,
    without TensorFlow; only `default` on a Keras model uses TensorFlow's converter.

    Attributes:
        scheme: `default` (`Optimize.DEFAULT`: int8 weights in layers of 1,024 or more, activations quantised at run
            time), `float16` weights, `dynamic` (as `default`, but all layers and any `bits`), `weight_only` (weights
            are converted to float to compute with), `int8` (activations, too, by ranges measured on the train split)
            or `int16x8` (int16 activations). Defaults to `default`.
        bits: Bits of the weights: 8, 4 or 2 (`dynamic` dense layers only). A layer that LiteRT cannot compute with so
            few bits uses the next higher number. Defaults to 8.
        block: Number of neighbouring 4-bit weights of a dense layer that share a scale, with `dynamic`: 32 or 64. A
            layer whose inputs it does not divide has a scale per channel. Defaults to None: per channel.
        layers: Bits of single layers, by pattern of their names: 2, 4, 8, or 32 for float.
        tolerance: Instead of `bits`: the loss of the validation metric allowed for each layer on its own, by the table
            of an earlier stage `sensitivity`, in percentage points or, of a metric that is no share, its unit. Each
            layer uses the fewest bits within it, or float if there are none. All layers together may lose more.
            Defaults to None: `bits`.
        io: Type of an `int8` or `int16x8` model's inputs and outputs: `float`, `integer` (int8, or int16), and with
            `int8` also `int8` or `uint8`, as cameras give it. Defaults to `float`.
        scales: `range` spans each channel's weights; `grid` takes the steps of weights on a grid as scales, so that the
            file holds their multiples exactly; `auto` is `grid` after a stage that has established a grid, else
            `range`. Defaults to `auto`.
        calibration_samples: Number of train examples on which the ranges of activations are measured, for `int8` and
            `int16x8`. Defaults to 200.

    Example:
        >>> Quantize(scheme="dynamic", bits=4).describe_layers([Layer("dense", "Dense", (64, 10), 650)])
        [('dense', 'Dense: int4 weights')]
    """

    accepts = ("keras", "tflite")
    produces = "quantized"
    search = {
        "scheme": Range("choice(dynamic, weight_only, int8)", strongest="int8"),
        "bits": Range("choice(8, 4)", strongest=4),
        "layers": Range("choice(32, 8, 4)", strongest=4),
    }
    int8_settings = {"scheme": "int8", "bits": 8, "block": None, "tolerance": None, "layers": {}}
    version = 3
    scheme: Literal["default", "float16", "dynamic", "weight_only", "int8", "int16x8"] = "default"
    bits: Literal[2, 4, 8] = 8
    block: Literal[32, 64] | None = None
    layers: dict[str, Literal[2, 4, 8, 32]] = field(default_factory=dict)
    tolerance: NonNegative | None = None
    io: IoType = "float"
    scales: Literal["auto", "range", "grid"] = "auto"
    calibration_samples: Count = 200

    def __post_init__(self) -> None:
        requested_bits = {self.bits, *self.layers.values()}
        has_formats = requested_bits != {8} or self.layers or self.block or self.tolerance is not None
        if self.io == "integer" and not self.computes_in_integers:
            raise ValueError(f"io=integer needs scheme=int8 or int16x8. Received: scheme={self.scheme}.")
        if self.io in ("int8", "uint8") and self.scheme != "int8":
            raise ValueError(f"io={self.io} needs scheme=int8. Received: scheme={self.scheme}.")
        if self.io == "int8":  # one name in the store's key
            object.__setattr__(self, "io", "integer")
        if self.scheme in ("default", "float16") and has_formats:
            raise ValueError(
                "bits, block, layers and tolerance need scheme=dynamic, weight_only, int8 or int16x8. "
                f"Received: scheme={self.scheme}."
            )
        if self.tolerance is not None and self.bits != 8:
            raise ValueError(
                "tolerance decides how many bits each layer gets: leave out bits, or name layers. "
                f"Received: tolerance={self.tolerance}, bits={self.bits}."
            )
        if 2 in requested_bits and self.scheme != "dynamic":
            raise ValueError(f"LiteRT runs 2-bit weights with scheme=dynamic only. Received: scheme={self.scheme}.")
        if self.block and (self.scheme != "dynamic" or (4 not in requested_bits and self.tolerance is None)):
            raise ValueError(
                "LiteRT runs blocks with scheme=dynamic and 4 bits only. "
                f"Received: block={self.block}, scheme={self.scheme}, bits={self.bits}."
            )

    @property
    def computes_in_integers(self) -> bool:
        """Whether activations are quantised, too, by ranges measured beforehand; see `Stage.computes_in_integers`."""
        return self.scheme in _BIAS_TYPES

    def establishes(self) -> tuple[Invariant, ...]:
        """Return the invariant of the weights' data types."""
        return (Invariant(InvariantKind.DATA_TYPE),)

    def preserves(self, invariant: Invariant) -> bool:
        """Return whether an invariant is preserved: zeros always, shared values unless scales are per block.

        A grid is preserved with `scales` `grid` or `auto` if a layer has as many bits as the grid; that each
        layer has enough for its own is checked on the file.
        """
        if invariant.family is InvariantFamily.SHARED_VALUES:
            return not self.block
        if invariant.family is InvariantFamily.GRID:
            fits = self.tolerance is None and max([self.bits, *self.layers.values()]) >= (invariant.value or 8)
            return fits and not self.block and self.scales != "range" and self.scheme != "float16"
        return invariant.family is InvariantFamily.ZEROS

    def resolve(self, standing: tuple[Invariant, ...]) -> Quantize:
        """Return the stage with the grid's scales if an earlier stage has established one; see `Stage.resolve`."""
        if self.scales == "auto" and any(invariant.family is InvariantFamily.GRID for invariant in standing):
            return replace(self, scales="grid")
        return self

    def computes_with_tensorflow(self, form: Form) -> bool:
        """Return whether TensorFlow's converter quantises a Keras model; see `Stage.computes_with_tensorflow`."""
        return form == "keras" and self.scheme == "default" and self.scales != "grid"

    def inputs(self) -> dict[str, Input]:
        """Return the ranges of activations and the sensitivity table, if they are needed; see `Stage.inputs`."""
        inputs: dict[str, Input] = {}
        if self.computes_in_integers:
            inputs["calibration"] = Calibration(self.calibration_samples)
        if self.tolerance is not None:
            inputs[SENSITIVITY_FACT] = Sensitivity
        return inputs

    def describe_layers(self, layers: Sequence[Layer], table: SensitivityTable | None = None) -> list[tuple[str, str]]:
        """Return each layer's data type, and why it is not the requested one; see `Stage.describe_layers`."""
        has_bits = [layer for layer in layers if layer.kernel and layer.kind != "Embedding"]
        self._check_patterns([extract_layer_names(layer.name) for layer in has_bits])
        return [(layer.name, f"{layer.kind}: {self._describe_layer(layer, table)}") for layer in layers]

    def _describe_layer(self, layer: Layer, table: SensitivityTable | None) -> str:
        if not layer.kernel:
            return "folded into its neighbours"
        if layer.kind == "Embedding":
            by_tensorflow = self.scheme == "default" and self.scales != "grid"
            if by_tensorflow and np.prod(layer.kernel) >= _DEFAULT_MIN_WEIGHTS:
                return "int8 weights"
            return "float32, litert-quantizer leaves the rows of an embedding"
        names = extract_layer_names(layer.name)
        if self.tolerance is not None and not table and not any(_matches(pattern, names) for pattern in self.layers):
            return f"by the table of sensitivity, for {self.tolerance:g} points"
        inputs = layer.kernel[0] if layer.kind == "Dense" else layer.kernel[-1]
        operator = "FULLY_CONNECTED" if layer.kind in _RECURRENT else _OPERATORS.get(layer.kind, layer.kind)
        kernel = self.choose_format(names, operator, layer.kernel, inputs, table)
        noun = "" if kernel.dtype == "FLOAT32" else " weights"
        description = format_type(f"{kernel.dtype.lower()}{noun}", kernel.block)
        return f"{description}, {kernel.reason}" if kernel.reason else description

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Quantise the model and run the result on an example; see `Stage.apply`."""
        from lightexp.backend import flatbuffer

        assert parent is not None  # `accepts` requires one
        source, result = flatbuffer.read_graph(parent.tflite), context.out / TFLITE
        names = [extract_layer_names(source.title(op, kernel)) for op, kernel in source.kernels]
        self._check_patterns(names)
        table = sensitivity_table(context)
        formats = [
            self.choose_format(kernel_names, op.kind, kernel.shape, kernel.shape[-1], table)
            for kernel_names, (op, kernel) in zip(names, source.kernels, strict=True)
        ]
        self._convert(parent, context, formats)
        facts: dict[str, Any] = {
            "kernels": {kernel.name: form.title for (_, kernel), form in zip(source.kernels, formats, strict=True)},
            "reasons": {
                kernel_names[0]: form.reason for kernel_names, form in zip(names, formats, strict=True) if form.reason
            },
        }
        shipped = flatbuffer.read_graph(result)
        if broken := self.verify("dtype", facts, shipped):
            raise RunFailed(f"{broken}. Keep its layer in float (layers: {{NAME: 32}}), or take another scheme.")
        try:
            try_on_example(result, context.data)
        except BadInput as error:
            raise BadInput(f"scheme={self.scheme}: {str(error).replace(str(result), 'the result')}") from None
        float_tensors = list_float_tensors(shipped, activations=self.computes_in_integers)
        facts["float"] = float_tensors
        if note := make_note([kernel_names[-1] for kernel_names in names], formats, float_tensors):
            facts["note"] = note
        return facts

    def _convert(self, parent: Artifact, context: Context, formats: Sequence[KernelFormat]) -> None:
        """Write the quantised file, by TensorFlow's converter or by litert-quantizer in a sandbox."""
        from lightexp.backend import sandbox

        result = context.out / TFLITE
        if parent.form == "keras" and self.computes_with_tensorflow("keras"):
            from lightexp.backend import converter, keras_files

            result.write_bytes(converter.convert_default(keras_files.load_model(parent.folder)))
            return
        ranges = np.empty(0, np.float32)
        if self.computes_in_integers:
            ranges = np.load(context.inputs["calibration"].folder / RANGES_FILE, allow_pickle=False)
        kernels = [(_BITS[form.dtype], form.block, self.scales == "grid") for form in formats]
        settings = {"scheme": self.scheme, "bits": self.bits, "kernels": kernels, "io": self.io}
        result.write_bytes(sandbox.run_sandboxed("quantize", parent.tflite, ranges, **settings).tobytes())

    def verify(self, kind: str, facts: Mapping[str, Any], shipped: TFLiteGraph) -> str | None:
        """Check the data types of the file's kernels, biases, inputs and outputs; see `Stage.verify`."""
        for op, kernel in shipped.kernels:
            expected, dtype = facts["kernels"].get(kernel.name), format_type(kernel.dtype, kernel.block)
            if self.scheme == "default":  # the converter may rename a kernel
                expected = self.choose_format([], op.kind, kernel.shape, 0).dtype
            if dtype != expected:
                return f"the {op.kind} kernel '{kernel.name}' is {dtype}, was to be {expected}"
            bias = _find_bias(shipped, op)
            if self.computes_in_integers and expected != "FLOAT32" and bias and bias.dtype != _BIAS_TYPES[self.scheme]:
                return f"the {op.kind} bias '{bias.name}' is {bias.dtype}, was to be {_BIAS_TYPES[self.scheme]}"
        return check_io_types(shipped, self.io, _IO_TYPES.get(self.scheme, "FLOAT32"))

    def choose_format(
        self, names: list[str], operator: str, shape: Sequence[int], inputs: int, table: SensitivityTable | None = None
    ) -> KernelFormat:
        """Return the format of a kernel.

        Args:
            names: Names of its layer, any of which a pattern may match.
            operator: The operator that uses it.
            shape: Shape of the kernel.
            inputs: Number of inputs of each output.
            table: Sensitivity table. Defaults to None.
        """
        if operator == "CONV_3D":
            return KernelFormat("FLOAT32", reason="no CONV_3D is quantised after training")
        if self.scheme == "float16":
            return KernelFormat("FLOAT16")
        if self.scheme == "default" and int(np.prod(shape)) < _DEFAULT_MIN_WEIGHTS:
            return KernelFormat("FLOAT32", reason=f"fewer than {_DEFAULT_MIN_WEIGHTS} weights")
        requested: int | None = next((bits for pattern, bits in self.layers.items() if _matches(pattern, names)), None)
        if requested is None and table and self.tolerance is not None:
            choices = (2, 4, 8) if self.scheme == "dynamic" else (4, 8)
            requested = choose_fewest_bits(
                table.compute_drops(names, "bits"), self.tolerance / table.primary.factor, choices
            )
            if requested == 32:
                return KernelFormat("FLOAT32", reason=f"fewer bits cost more than {self.tolerance:g} points")
        if requested is None:
            requested = self.bits
        if requested == 32:
            return KernelFormat("FLOAT32", reason=AS_REQUESTED)
        bits = next(b for b in (2, 4, 8) if b >= requested and (b == 8 or operator in NARROW_OPERATORS[b]))
        if bits != requested:
            return KernelFormat(f"INT{bits}", reason=f"LiteRT cannot compute a {requested}-bit {operator}")
        if not self.block or bits != 4:
            return KernelFormat(f"INT{bits}")
        if operator != "FULLY_CONNECTED" or inputs % self.block:
            reason = f"per channel: no blocks of {self.block} in {inputs} inputs of a {operator}"
            return KernelFormat("INT4", reason=reason)
        return KernelFormat("INT4", self.block)

    def _check_patterns(self, kernels: Sequence[list[str]]) -> None:
        """Check that each pattern matches a layer with a kernel, and that no layer gets two numbers of bits."""
        if not kernels:
            return
        for pattern in self.layers:
            if not any(_matches(pattern, names) for names in kernels):
                known = ", ".join(names[-1] for names in kernels)
                raise BadInput(f"layers: '{pattern}' matches no layer with a kernel. These are: {known}.")
        for names in kernels:
            matching = {pattern: bits for pattern, bits in self.layers.items() if _matches(pattern, names)}
            if len(set(matching.values())) > 1:
                raise BadInput(f"layers: {names[-1]} is given several numbers of bits: {matching}. Give it one.")


def _matches(pattern: str, names: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _find_bias(graph: TFLiteGraph, op: Operator) -> Tensor | None:
    operand = 3 if op.kind == "TRANSPOSE_CONV" else 2
    has_bias = len(op.inputs) > operand and op.inputs[operand] >= 0
    return graph.tensors[op.inputs[operand]] if has_bias else None
