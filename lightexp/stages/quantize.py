"""Post-training quantisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
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
from lightexp.core.tflite_graph import Tensor, TFLiteGraph, extract_layer_names
from lightexp.models.from_file import try_on_example
from lightexp.stages.calibration import RANGES, Calibration
from lightexp.stages.sensitivity import Sensitivity, sensitivity_table

_DEFAULT_FROM = 1024  # weights; the converter leaves smaller tensors in float
_OPERATORS = {"Dense": "FULLY_CONNECTED", "Conv2D": "CONV_2D", "Conv1D": "CONV_2D", "Conv3D": "CONV_3D"}
_NARROW = {  # the operators that LiteRT computes rightly with such weights; 8 bits go in all
    2: ("FULLY_CONNECTED",),  # it takes a 2-bit CONV_2D too, and gives nonsense
    4: ("FULLY_CONNECTED", "CONV_2D"),
}
_ASKED = "as asked"
_BITS = {"INT2": 2, "INT4": 4, "INT8": 8, "FLOAT16": 16, "FLOAT32": 32}
_BIASES = {"int8": "INT32", "int16x8": "INT64"}
_ENDS = {"int8": "INT8", "int16x8": "INT16"}


@settings_dataclass
class Quantize(Stage):
    """Stores weights, and with `int8` and `int16x8` also activations, as small numbers, without training.

    Jacob et al. 2018 (arXiv 1712.05877). litert-quantizer does it on the float `.tflite`, also on that of a Keras
    model, without TensorFlow; the `default` of a Keras model is TensorFlow's converter's own.

    Attributes:
        scheme: `default` (`Optimize.DEFAULT`: int8 weights, in layers of 1,024 or more, activations quantised as they
            come), `float16` weights, `dynamic` (as `default`, but all layers and any `bits`), `weight_only` (weights
            are made float again to compute with), `int8` (activations too, by ranges taken from train) or `int16x8`
            (int16 activations). Defaults to `default`.
        bits: Of the weights: 8, 4 or 2 (`dynamic` dense layers only). Where LiteRT cannot compute with so few, a layer
            gets the next more. Defaults to 8.
        block: How many neighbouring 4-bit weights of a dense layer share a scale, in `dynamic`: 32 or 64. A layer that
            it does not divide has a scale per channel. Defaults to None: per channel.
        layers: Bits of single layers, by pattern of their names: 2, 4, 8, or 32 for float.
        tolerance: Instead of `bits`: what each layer alone may cost by the table of an earlier stage `sensitivity`, in
            percentage points of validation accuracy. It gets the fewest bits that cost no more, or stays float where
            none do. The layers together may cost more. Defaults to None: `bits`.
        io: Whether an `int8` or `int16x8` model takes and gives `float` or `integer` numbers. Defaults to `float`.
        calibration_samples: Examples of the train split from which the ranges of activations are taken, for `int8`
            and `int16x8`. Defaults to 200.
    """

    accepts = ("keras", "tflite")
    produces = "quantized"
    search = {
        "scheme": Range("choice(dynamic, weight_only, int8)", strongest="int8"),
        "bits": Range("choice(8, 4)", strongest=4),
        "layers": Range("choice(32, 8, 4)", strongest=4),
    }
    int8_settings = {"scheme": "int8", "bits": 8, "block": None, "tolerance": None, "layers": {}}
    version = 2
    scheme: Literal["default", "float16", "dynamic", "weight_only", "int8", "int16x8"] = "default"
    bits: Literal[2, 4, 8] = 8
    block: Literal[32, 64] | None = None
    layers: dict[str, Literal[2, 4, 8, 32]] = field(default_factory=dict)
    tolerance: NonNegative | None = None
    io: Literal["float", "integer"] = "float"
    calibration_samples: Count = 200

    def __post_init__(self) -> None:
        asked = {self.bits, *self.layers.values()}
        if self.io == "integer" and not self._calibrated:
            raise ValueError(f"io=integer needs scheme=int8 or int16x8. Received: scheme={self.scheme}.")
        own = asked != {8} or self.layers or self.block or self.tolerance is not None
        if self.scheme in ("default", "float16") and own:
            raise ValueError(
                "bits, block, layers and tolerance need scheme=dynamic, weight_only, int8 or int16x8. "
                f"Received: scheme={self.scheme}."
            )
        if self.tolerance is not None and self.bits != 8:
            raise ValueError(
                "tolerance decides how many bits each layer gets: leave out bits, or name layers. "
                f"Received: tolerance={self.tolerance}, bits={self.bits}."
            )
        if 2 in asked and self.scheme != "dynamic":
            raise ValueError(f"LiteRT runs 2-bit weights with scheme=dynamic only. Received: scheme={self.scheme}.")
        if self.block and (self.scheme != "dynamic" or (4 not in asked and self.tolerance is None)):
            raise ValueError(
                "LiteRT runs blocks with scheme=dynamic and 4 bits only. "
                f"Received: block={self.block}, scheme={self.scheme}, bits={self.bits}."
            )

    def establishes(self) -> tuple[Invariant, ...]:
        """The data types of the weights."""
        return (Invariant(InvariantKind.DATA_TYPE),)

    def preserves(self, invariant: Invariant) -> bool:
        """Zeros stay zeros, and equal weights of a channel equal; of a block only, where scales are a block's."""
        if invariant.family is InvariantFamily.SHARED_VALUES:
            return not self.block
        return invariant.family is InvariantFamily.ZEROS

    def computes_with_tensorflow(self, form: Form) -> bool:
        """Only where the converter quantises a Keras model."""
        return form == "keras" and self.scheme == "default"

    def inputs(self) -> dict[str, Input]:
        """The ranges of activations and the table of sensitivity, where they are needed."""
        found: dict[str, Input] = {}
        if self._calibrated:
            found["calibration"] = Calibration(self.calibration_samples)
        return found if self.tolerance is None else {**found, SENSITIVITY_FACT: Sensitivity}

    def describe_layers(self, layers: Sequence[Layer], table: SensitivityTable | None = None) -> list[tuple[str, str]]:
        """Each layer's data type, and why it is not the one asked for; see `Stage.touches`."""
        self._check_patterns([extract_layer_names(layer.name) for layer in layers if layer.kernel])
        words = []
        for layer in layers:
            if not layer.kernel:
                words.append((layer.name, f"{layer.kind}: folded into its neighbours"))
                continue
            if (
                self.tolerance is not None
                and not table
                and not any(_matches(p, extract_layer_names(layer.name)) for p in self.layers)
            ):
                words.append((layer.name, f"{layer.kind}: by the table of sensitivity, for {self.tolerance:g} points"))
                continue
            inputs = layer.kernel[0] if layer.kind == "Dense" else layer.kernel[-1]
            operator = _OPERATORS.get(layer.kind, layer.kind)
            kind, block, why = self._kernel(extract_layer_names(layer.name), operator, layer.kernel, inputs, table)
            stored = _type(f"{kind.lower()}{'' if kind == 'FLOAT32' else ' weights'}", block)
            words.append((layer.name, f"{layer.kind}: {stored}{f', {why}' if why else ''}"))
        return words

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Quantises the model and tries the result; see `Stage.apply`."""
        from lightexp.backend import flatbuffer, sandbox

        assert parent is not None  # `accepts` says so
        source, result = flatbuffer.read_graph(parent.tflite), context.out / TFLITE
        _check_finite(source)
        names = [extract_layer_names(source.title(op, kernel)) for op, kernel in source.kernels]
        self._check_patterns(names)
        table = sensitivity_table(context)
        found = [
            self._kernel(known, op.kind, kernel.shape, kernel.shape[-1], table)
            for known, (op, kernel) in zip(names, source.kernels, strict=True)
        ]
        if parent.form == "keras" and self.scheme == "default":
            from lightexp.backend import converter, keras_files

            result.write_bytes(converter.convert_default(keras_files.load_model(parent.folder)))
        else:
            ranges = np.empty(0, np.float32)
            if self._calibrated:
                ranges = np.load(context.inputs["calibration"].folder / RANGES, allow_pickle=False)
            each = [(_BITS[kind], block) for kind, block, _ in found]
            settings = {"scheme": self.scheme, "bits": self.bits, "kernels": each, "integer_io": self.io == "integer"}
            result.write_bytes(sandbox.run_sandboxed("quantize", parent.tflite, ranges, **settings).tobytes())
        facts: dict[str, Any] = {
            "kernels": {k.name: _type(kind, n) for (_, k), (kind, n, _) in zip(source.kernels, found, strict=True)},
            "reasons": {known[0]: why for known, (*_, why) in zip(names, found, strict=True) if why},
        }
        shipped = flatbuffer.read_graph(result)
        if broken := self.verify("dtype", facts, shipped):
            raise RunFailed(f"{broken}. Keep its layer in float (layers: {{NAME: 32}}), or take another scheme.")
        try:
            try_on_example(result, context.data)
        except BadInput as error:
            raise BadInput(f"scheme={self.scheme}: {str(error).replace(str(result), 'the result')}") from None
        stay = _in_float(shipped, activations=self._calibrated)
        reasons = [(known[-1], why) for known, (*_, why) in zip(names, found, strict=True)]
        other = [f"{name} ({why})" for name, why in reasons if why not in ("", _ASKED)]
        notes = [f"not as asked: {', '.join(other)}"] if other else []
        notes += [f"in float: {', '.join(stay)}"] if stay else []
        return {**facts, "float": stay, **({"note": "; ".join(notes)} if notes else {})}

    def verify(self, kind: str, facts: Mapping[str, Any], shipped: TFLiteGraph) -> str | None:
        """Checks the data types of the file's kernels, biases and ends; see `Stage.verify`."""
        for op, kernel in shipped.kernels:
            wanted, found = facts["kernels"].get(kernel.name), _type(kernel.dtype, kernel.block)
            if self.scheme == "default":  # the converter may give a kernel another name
                wanted, *_ = self._kernel([], op.kind, kernel.shape, 0)
            if found != wanted:
                return f"the {op.kind} kernel '{kernel.name}' is {found}, was to be {wanted}"
            bias = _bias(shipped, op)
            if self._calibrated and wanted != "FLOAT32" and bias and bias.dtype != _BIASES[self.scheme]:
                return f"the {op.kind} bias '{bias.name}' is {bias.dtype}, was to be {_BIASES[self.scheme]}"
        ends = {shipped.tensors[index].dtype for index in (*shipped.inputs, *shipped.outputs)}
        wanted = _ENDS[self.scheme] if self.io == "integer" else "FLOAT32"
        return f"inputs and outputs are {sorted(ends)}, were to be {wanted}" if ends != {wanted} else None

    def _kernel(
        self, names: list[str], operator: str, shape: Sequence[int], inputs: int, table: SensitivityTable | None = None
    ) -> tuple[str, int, str]:
        """A kernel's data type and block (0: none), and why it is not the one that was asked for."""
        if operator == "CONV_3D":
            return "FLOAT32", 0, "no CONV_3D is quantised after training"
        if self.scheme == "float16":
            return "FLOAT16", 0, ""
        if self.scheme == "default" and int(np.prod(shape)) < _DEFAULT_FROM:
            return "FLOAT32", 0, f"fewer than {_DEFAULT_FROM} weights"
        wanted: int | None = next((bits for p, bits in self.layers.items() if _matches(p, names)), None)
        if wanted is None and table and self.tolerance is not None:
            among = (2, 4, 8) if self.scheme == "dynamic" else (4, 8)
            wanted = choose_fewest_bits(table.drops(names, "bits"), self.tolerance / 100, among)
            if wanted == 32:
                return "FLOAT32", 0, f"fewer bits cost more than {self.tolerance:g} points"
        wanted = self.bits if wanted is None else wanted
        if wanted == 32:
            return "FLOAT32", 0, _ASKED
        bits = next(b for b in (2, 4, 8) if b >= wanted and (b == 8 or operator in _NARROW[b]))
        if bits != wanted:
            return f"INT{bits}", 0, f"LiteRT cannot compute a {wanted}-bit {operator}"
        if not self.block or bits != 4:
            return f"INT{bits}", 0, ""
        if operator != "FULLY_CONNECTED" or inputs % self.block:
            return "INT4", 0, f"per channel: no blocks of {self.block} in {inputs} inputs of a {operator}"
        return "INT4", self.block, ""

    def _check_patterns(self, kernels: Sequence[list[str]]) -> None:
        """Refuses patterns that match no layer with a kernel, and layers that are given several widths."""
        if not kernels:
            return
        for pattern in self.layers:
            if not any(_matches(pattern, names) for names in kernels):
                known = ", ".join(names[-1] for names in kernels)
                raise BadInput(f"layers: '{pattern}' matches no layer with a kernel. These are: {known}.")
        for names in kernels:
            given = {p: bits for p, bits in self.layers.items() if _matches(p, names)}
            if len(set(given.values())) > 1:
                raise BadInput(f"layers: {names[-1]} is given several numbers of bits: {given}. Give it one.")

    @property
    def _calibrated(self) -> bool:
        return self.scheme in _BIASES


def _type(kind: str, block: int) -> str:
    return f"{kind} in blocks of {block}" if block else kind


def _matches(pattern: str, names: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _bias(model: TFLiteGraph, op: Any) -> Tensor | None:
    place = 3 if op.kind == "TRANSPOSE_CONV" else 2
    return model.tensors[op.inputs[place]] if len(op.inputs) > place and op.inputs[place] >= 0 else None


def _check_finite(model: TFLiteGraph) -> None:
    for op, kernel in model.kernels:
        for tensor in (kernel, _bias(model, op)):
            if tensor and tensor.data is not None and not np.isfinite(tensor.data).all():
                raise BadInput(
                    f"'{tensor.name}' holds weights that are not finite: nothing can be quantised. "
                    "Train the model again, with a smaller learning rate."
                )


def _in_float(model: TFLiteGraph, activations: bool) -> list[str]:
    """Other matrices of weights than kernels that are float after all, and the operators whose `activations` are."""
    kernels = {kernel.name for _, kernel in model.kernels}
    weights = [t.name for t in model.weights if t.dtype == "FLOAT32" and len(t.shape) > 1 and t.name not in kernels]
    made = {out: op.kind for op in model.ops for out in op.outputs if op.kind != "DEQUANTIZE" and activations}
    return weights + [f"{kind} '{t.name}'" for i, kind in made.items() if (t := model.tensors[i]).dtype == "FLOAT32"]
