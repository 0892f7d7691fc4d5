"""A `.tflite` file as plain arrays: what it holds and what its operators do with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

COMPUTE = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "CONV_3D", "BATCH_MATMUL")
_COPIES = ("DEQUANTIZE", "RESHAPE", "TRANSPOSE", "EXPAND_DIMS")


@dataclass(frozen=True)
class Tensor:
    """A tensor of the flatbuffer.

    Attributes:
        name: Its name in the file.
        shape: Its shape, with 1 for the batch.
        dtype: `FLOAT32`, `FLOAT16`, `INT8`, `INT4`, ... as the schema calls it.
        data: Its constant values as stored (integers where it is quantised), or None where it is computed.
        scales: Quantisation scales: one, one per channel, or one per block of each row; empty where not quantised.
        zero_points: As `scales`; empty in blocks, whose zero is 0.
        block: How many neighbours along the last axis share a scale; 0 where that is not how it is quantised.
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
        """Whether it is a learnt constant, not a shape or an axis: of a float type, or quantised."""
        return self.data is not None and (self.dtype.startswith("FLOAT") or bool(self.scales))

    @property
    def zeros(self) -> int:
        """How many of its constant values stand for 0.0."""
        if self.data is None:
            return 0
        zero = self.zero_points[0] if self.zero_points else 0
        return int(np.count_nonzero(self.data == zero))


def extract_layer_names(name: str) -> list[str]:
    """Names a user may know a weight's layer by: its own, and those the converter puts in it (`model/layer/Op;...`)."""
    parts = [part for part in name.split(";") if "batchnorm" not in part.lower()]  # that was folded into the layer
    return [name, *dict.fromkeys(piece for part in parts for piece in part.split("/")[1:-1])]


@dataclass(frozen=True)
class Operator:
    """An operator: its builtin name and the indices of its tensors (-1 for an optional one left out)."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


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
        """Whether any learnt constant is not plain float32."""
        return any(t.dtype != "FLOAT32" or t.scales for t in self.weights)

    @property
    def ends_in_softmax(self) -> bool:
        """Whether the first output comes out of a softmax."""
        made_by = {out: op for op in self.ops for out in op.outputs}
        last = made_by.get(self.outputs[0])
        while last and last.kind in (*_COPIES, "QUANTIZE"):
            last = made_by.get(last.inputs[0])
        return last is not None and last.kind == "SOFTMAX"

    def title(self, op: Operator, kernel: Tensor) -> str:
        """The kernel's name, or where that tells no layer (it may be shared or rewritten), its operator's output's."""
        return kernel.name if len(extract_layer_names(kernel.name)) > 1 else self.tensors[op.outputs[0]].name

    @cached_property
    def kernels(self) -> tuple[tuple[Operator, Tensor], ...]:
        """Each computing operator with its weight tensor, followed through dequantisation, in execution order."""
        made_by = {out: op for op in self.ops for out in op.outputs}
        found = []
        for op in self.ops:
            if op.kind not in COMPUTE:
                continue
            for index in op.inputs[:2]:
                while index in made_by and made_by[index].kind in _COPIES:
                    index = made_by[index].inputs[0]
                if index >= 0 and self.tensors[index].is_weight:
                    found.append((op, self.tensors[index]))
        return tuple(found)


@dataclass(frozen=True)
class ConstantSpan:
    """Where a constant lies in its file.

    Attributes:
        start: Of its bytes.
        length: Of them.
        width: Of a value, in bits; values narrower than a byte are packed, the first in the lowest bits.
        floats: Whether they are floating-point numbers.
        shape: Of the (first) tensor that it is the constant of.
    """

    start: int
    length: int
    width: int
    floats: bool
    shape: tuple[int, ...]
