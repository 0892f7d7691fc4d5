"""A `.tflite` file as plain Python objects: its tensors, operators and kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

COMPUTE = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "CONV_3D", "BATCH_MATMUL")
_COPIES = ("DEQUANTIZE", "RESHAPE", "TRANSPOSE", "EXPAND_DIMS")
_INTEGERS = {"INT8": (-128, 127), "UINT8": (0, 255), "INT16": (-32768, 32767)}
NARROW_TYPES = ("INT2", "INT4", "UINT4")
"""Types with less than 8 bits."""
_ACTIVATIONS = {"softmax": "SOFTMAX", "sigmoid": "LOGISTIC"}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the flatbuffer.

    Attributes:
        name: Its name in the file.
        shape: Its shape, with 1 for the batch.
        dtype: Its type in the schema: `FLOAT32`, `FLOAT16`, `INT8`, `INT4`, ...
        data: Its constant values as stored (integers where it is quantised); None where it is computed.
        scales: Quantisation scales: one, one per channel, or one per block of each row; empty where not quantised.
        zero_points: Zero points, one for each scale; empty for blocks, whose zero is 0.
        block: Number of neighbours along the last axis that share a scale; 0 where it is not quantised in blocks.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: NDArray[np.generic] | None
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    block: int = 0

    @property
    def is_weight(self) -> bool:
        """Whether it is a learnt constant (float or quantised) and not a shape or an axis."""
        return self.data is not None and (self.dtype.startswith("FLOAT") or bool(self.scales))

    @property
    def zeros(self) -> int:
        """Number of its constant values that represent 0.0."""
        if self.data is None:
            return 0
        zero = self.zero_points[0] if self.zero_points else 0
        return int(np.count_nonzero(self.data == zero))


def extract_layer_names(name: str) -> list[str]:
    """Return the names of a weight's layer: its own, and those the converter puts into it (`model/layer/Op;...`)."""
    parts = [part for part in name.split(";") if "batchnorm" not in part.lower()]  # folded into the layer
    pieces = list(dict.fromkeys(piece for part in parts for piece in part.split("/")[1:-1]))
    # A Dense on several positions is `model/layer/Tensordot/MatMul`.
    return [name, *([piece for piece in pieces if piece != "Tensordot"] or pieces)]


Options = Mapping[str, Any]
"""An operator's options, such as strides, by the schema's names; those that a file omits are 0."""


@dataclass(frozen=True)
class Operator:
    """An operator: its builtin name, the indices of its tensors (-1 for an omitted optional one), and its options."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Options = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class TFLiteGraph:
    """The main subgraph of a `.tflite` file."""

    tensors: tuple[Tensor, ...]
    ops: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @cached_property
    def weights(self) -> tuple[Tensor, ...]:
        """All learnt constants."""
        return tuple(t for t in self.tensors if t.is_weight)

    @property
    def quantized(self) -> bool:
        """Whether any learnt constant is other than float32."""
        return any(t.dtype != "FLOAT32" or t.scales for t in self.weights)

    @property
    def computes_in_float(self) -> bool:
        """Whether all operators read float32, so that only the storage of weights may be of another type."""
        readers = (op for op in self.ops if op.kind != "DEQUANTIZE")
        read = (self.tensors[index] for op in readers for index in op.inputs if index >= 0)
        return all(tensor.dtype == "FLOAT32" for tensor in read if tensor.is_weight)

    def ends_in(self, activation: Literal["softmax", "sigmoid"]) -> bool:
        """Return whether an activation computes the first output."""
        producers = {out: op for op in self.ops for out in op.outputs}
        last = producers.get(self.outputs[0])
        while last and last.kind in (*_COPIES, "QUANTIZE"):
            last = producers.get(last.inputs[0])
        return last is not None and last.kind == _ACTIVATIONS[activation]

    @property
    def output_range(self) -> tuple[float, float] | None:
        """Smallest and largest value that the first output can take, quantised as it is; None where it is float."""
        producers = {out: op for op in self.ops for out in op.outputs}
        index = self.outputs[0]
        while not self.tensors[index].scales and index in producers and producers[index].kind in _COPIES:
            index = producers[index].inputs[0]
        tensor = self.tensors[index]
        if len(tensor.scales) != 1 or tensor.dtype not in _INTEGERS:
            return None
        low, high = ((integer - tensor.zero_points[0]) * tensor.scales[0] for integer in _INTEGERS[tensor.dtype])
        return low, high

    def title(self, op: Operator, kernel: Tensor) -> str:
        """Return the kernel's name or, where that names no layer (it is shared, say), that of its operator's output."""
        return kernel.name if len(extract_layer_names(kernel.name)) > 1 else self.tensors[op.outputs[0]].name

    @property
    def narrow_layers(self) -> list[str]:
        """Names of the layers whose weights have less than 8 bits."""
        return [extract_layer_names(self.title(op, w))[-1] for op, w in self.kernels if w.dtype in NARROW_TYPES]

    def name_layer(self, op: Operator) -> str:
        """Return the name of the layer that an operator belongs to, or its builtin name where the file names none."""
        if not op.outputs:
            return op.kind
        kernel = next((kernel for user, kernel in self.kernels if user is op), None)
        title = self.title(op, kernel) if kernel else self.tensors[op.outputs[0]].name
        names = extract_layer_names(title)
        layers = [name for name in names[1:] if not name[:1].isupper()] or names[1:]  # `layer/Conv2D/SpaceToBatchND`
        if layers:
            return layers[-1]
        return names[0] if kernel else op.kind

    @cached_property
    def embeddings(self) -> tuple[tuple[Operator, Tensor], ...]:
        """Each operator that looks rows up in a weight matrix, with the matrix, traced through dequantisation."""
        producers = {out: op for op in self.ops for out in op.outputs}
        tables = []
        for op in self.ops:
            if op.kind != "GATHER":
                continue
            index = op.inputs[0]
            while index in producers and producers[index].kind in _COPIES:
                index = producers[index].inputs[0]
            if self.tensors[index].is_weight and len(self.tensors[index].shape) > 1:
                tables.append((op, self.tensors[index]))
        return tuple(tables)

    @cached_property
    def kernels(self) -> tuple[tuple[Operator, Tensor], ...]:
        """Each computing operator with its weight tensor, traced through dequantisation, in execution order."""
        producers = {out: op for op in self.ops for out in op.outputs}
        kernels = []
        for op in self.ops:
            if op.kind not in COMPUTE:
                continue
            for index in op.inputs[:2]:
                while index in producers and producers[index].kind in _COPIES:
                    index = producers[index].inputs[0]
                if index >= 0 and self.tensors[index].is_weight:
                    kernels.append((op, self.tensors[index]))
        return tuple(kernels)


@dataclass(frozen=True)
class ConstantSpan:
    """The position of a constant in its file.

    Attributes:
        start: Offset of its first byte.
        length: Number of bytes.
        width: Bits of a value; values narrower than a byte are packed, the first in the lowest bits.
        floats: Whether the values are floating-point numbers.
        shape: Shape of the (first) tensor that uses the constant.
    """

    start: int
    length: int
    width: int
    floats: bool
    shape: tuple[int, ...]
