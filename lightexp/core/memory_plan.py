"""The RAM of activations at each operator of a `.tflite` file: which tensors are alive when, and how large they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightexp.core.tflite_graph import Tensor, TFLiteGraph

_ALIGNMENT = 16  # bytes; TFLite Micro starts each tensor at a multiple
_BITS = {"FLOAT16": 16, "BOOL": 8, "INT4": 8, "UINT4": 8, "INT2": 8}  # of types whose names do not end in their bits


@dataclass(frozen=True)
class OperatorMemory:
    """The activations that are alive while an operator computes.

    Attributes:
        layer: Name of the operator's layer.
        kind: Its builtin name.
        tensors: Name and bytes of each tensor, the largest first.
    """

    layer: str
    kind: str
    tensors: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        """Bytes of all tensors, each from a multiple of 16 bytes."""
        return sum(size for _, size in self.tensors)


def plan_memory(graph: TFLiteGraph) -> list[OperatorMemory]:
    """Return the memory at each operator, in the order in which they run.

    The largest is a lower bound of the arena's head: an interpreter may leave gaps, and needs room for scratch buffers
    of its kernels.
    """
    first: dict[int, int] = dict.fromkeys(graph.inputs, 0)
    last: dict[int, int] = dict.fromkeys(graph.inputs, 0)
    for place, op in enumerate(graph.ops):
        for index in op.outputs:
            first.setdefault(index, place)
        for index in (*op.inputs, *op.outputs):
            last[index] = place
    last |= dict.fromkeys(graph.outputs, len(graph.ops))
    activations = {i: _count_bytes(t) for i, t in enumerate(graph.tensors) if i in first and t.data is None}
    rows = []
    for place, op in enumerate(graph.ops):
        alive = {i: size for i, size in activations.items() if first[i] <= place <= last[i]}
        largest = sorted(alive.items(), key=lambda pair: -pair[1])
        tensors = tuple((graph.tensors[index].name, size) for index, size in largest)
        rows.append(OperatorMemory(graph.name_layer(op), op.kind, tensors))
    return rows


def find_peak(rows: Sequence[OperatorMemory]) -> OperatorMemory | None:
    """Return the first operator with most memory; None of a graph without operators."""
    return max(rows, key=lambda row: row.size, default=None)


def use_integer_io(graph: TFLiteGraph) -> TFLiteGraph:
    """Return the graph that `io=integer` would give: without conversions of float inputs and outputs."""
    float_inputs = {index for index in graph.inputs if graph.tensors[index].dtype == "FLOAT32"}
    ends = [(op.kind, op.inputs[0], op.outputs[0]) for op in graph.ops if op.inputs and op.outputs]
    inputs = {outer: inner for kind, outer, inner in ends if kind == "QUANTIZE" and outer in float_inputs}
    outputs = {outer: inner for kind, inner, outer in ends if kind == "DEQUANTIZE" and outer in graph.outputs}
    readers = [index for op in graph.ops for index in op.inputs if index in inputs or index in outputs]
    if len(readers) != len(inputs):  # something else reads a float input or output, too
        return graph
    converters = {*inputs.values(), *outputs}
    return replace(
        graph,
        ops=tuple(op for op in graph.ops if converters.isdisjoint(op.outputs)),
        inputs=tuple(inputs.get(index, index) for index in graph.inputs),
        outputs=tuple(outputs.get(index, index) for index in graph.outputs),
    )


def _count_bytes(tensor: Tensor) -> int:
    digits = "".join(filter(str.isdigit, tensor.dtype))
    bits = _BITS.get(tensor.dtype) or int(digits or 32)
    size = math.prod(tensor.shape) * bits // 8
    return -(-size // _ALIGNMENT) * _ALIGNMENT
