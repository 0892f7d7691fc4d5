"""Versions of operators, as TensorFlow's converter declares them for the types of their tensors.

The rules are those of `tools/versioning/op_version.cc` in LiteRT, for operators that quantisation gives other types.
Importers for embedded devices refuse an int8 operator that declares the version of its float kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema

_TYPES = {value: name for name, value in vars(schema.TensorType).items() if name.isupper()}
_KINDS = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
_VERSIONS = (  # of operators by the type of their input; 1 for other types
    (
        {"INT8": 2},
        "ARG_MAX ARG_MIN DEPTH_TO_SPACE GELU GREATER LESS_EQUAL LOG_SOFTMAX NOT_EQUAL SPACE_TO_DEPTH SPLIT_V "
        "SQUARED_DIFFERENCE STRIDED_SLICE SUM",
    ),
    (
        {"INT8": 2, "INT16": 3},
        "ABS ADD AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION GREATER_EQUAL LESS LOGISTIC MAX_POOL_2D MEAN MIRROR_PAD "
        "PACK PAD PADV2 REDUCE_MAX REDUCE_MIN RELU RELU6 RSQRT SOFTMAX TANH",
    ),
    (
        {"INT8": 2, "INT16": 4},
        "BATCH_TO_SPACE_ND EQUAL GATHER MAXIMUM MINIMUM RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SLICE "
        "SPACE_TO_BATCH_ND SPLIT UNPACK",
    ),
    ({"INT8": 2, "INT16": 2}, "EXP LOG REDUCE_PROD"),
    ({"INT8": 2, "INT16": 5}, "SUB TRANSPOSE"),
    ({"INT8": 3, "INT16": 3}, "BROADCAST_TO"),
    ({"INT8": 3}, "REVERSE_V2 TILE"),
    ({"INT16": 2}, "LEAKY_RELU"),
    ({"INT16": 3}, "GATHER_ND"),
)
_BY_INPUT = {kind: versions for versions, kinds in _VERSIONS for kind in kinds.split()}
_INPUT_PLACES = {"SPLIT": 1}  # of the input that decides; 0 for all others
_HYBRID_CHANNELS = "FLOAT32", "INT8 channels"
_WITH_KERNEL = {  # versions by the types of input and kernel
    "CONV_2D": {("INT8", "INT8"): 3, ("INT8", "INT4"): 7, ("FLOAT32", "INT8"): 2, _HYBRID_CHANNELS: 5},
    "DEPTHWISE_CONV_2D": {("INT8", "INT8"): 3, ("INT8", "INT4"): 7, ("FLOAT32", "INT8"): 4, _HYBRID_CHANNELS: 6},
    "FULLY_CONNECTED": {("INT8", "INT8"): 4, ("INT8", "INT4"): 10, ("FLOAT32", "INT8"): 3, _HYBRID_CHANNELS: 12},
}
_WITH_BIAS_TYPE = {"CONV_2D": 8, "FULLY_CONNECTED": 11, "TRANSPOSE_CONV": 5}  # int16 with a stated type of the bias


def declare_versions(model: Any) -> None:
    """Raise the versions that a model's operator codes declare to those that its operators need.

    Args:
        model: A `ModelT` with operator codes in the newer field, which is changed.
    """
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            inputs, outputs = (
                tuple(graph.tensors[index] if index >= 0 else None for index in indices)
                for indices in (operator.inputs, operator.outputs)
            )
            signature = _Signature(_KINDS[code.builtinCode], inputs, outputs[0], operator.builtinOptions)
            code.version = max(code.version, signature.find_version())


@dataclass(frozen=True)
class _Signature:
    """An operator with its tensors.

    Attributes:
        kind: Its builtin name.
        inputs: Its input tensors; None for an omitted one.
        output: Its first output tensor.
        options: Its options; None if the file states none.
    """

    kind: str
    inputs: tuple[Any, ...]
    output: Any
    options: Any

    def find_version(self) -> int:
        """Return the version that the operator needs."""
        if self.kind in _WITH_BIAS_TYPE and self.options and self.options.quantizedBiasType:
            return _WITH_BIAS_TYPE[self.kind]
        if self.kind in _WITH_KERNEL:
            return self._find_with_kernel()
        if self.kind == "TRANSPOSE_CONV":
            return self._find_transpose_conv()
        if self.kind == "DEQUANTIZE":
            of_channels = 5 if _is_per_channel(self.inputs[0]) else 2
            return {"INT4": 6, "INT16": 3, "FLOAT16": 3, "INT8": of_channels}.get(self._get_type(0), 1)
        if self.kind == "QUANTIZE":
            return {"INT4": 4, "INT16": 2}.get(_TYPES[self.output.type], 1)
        if self.kind == "MUL":
            return {"INT8": 3 if self._rescales_up() else 2, "INT16": 4}.get(self._get_type(0), 1)
        return _BY_INPUT.get(self.kind, {}).get(self._get_type(_INPUT_PLACES.get(self.kind, 0)), 1)

    def _get_type(self, place: int) -> str:
        has_tensor = place < len(self.inputs) and self.inputs[place] is not None
        return _TYPES[self.inputs[place].type] if has_tensor else ""

    def _find_with_kernel(self) -> int:
        pair = self._get_type(0), self._get_type(1)
        if pair == ("FLOAT32", "INT8") and _is_per_channel(self.inputs[1]):
            pair = _HYBRID_CHANNELS
        version = _WITH_KERNEL[self.kind].get(pair, 1)
        if self.kind == "CONV_2D" and self.inputs[0].shape[-1] != self.inputs[1].shape[-1]:
            return 6  # a grouped convolution
        if self.kind == "FULLY_CONNECTED" and pair != _HYBRID_CHANNELS:
            if len(self.inputs) == 2:
                return 6
            if self.options and self.options.keepNumDims:
                return 5
        return version

    def _find_transpose_conv(self) -> int:
        if self.options and self.options.fusedActivationFunction:
            return 4
        if self._get_type(3):  # a bias
            return 3
        return 2 if self._get_type(1) == "INT8" else 1

    def _rescales_up(self) -> bool:
        """Return whether the product of the inputs' scales is at least the output's scale."""
        quantizations = [tensor.quantization for tensor in (*self.inputs, self.output)]
        scales = [q.scale[0] for q in quantizations if q is not None and q.scale is not None and len(q.scale)]
        return len(scales) == 3 and bool(scales[0] * scales[1] >= scales[2])


def _is_per_channel(tensor: Any) -> bool:
    scales = tensor.quantization.scale if tensor.quantization else None
    return scales is not None and len(scales) > 1
