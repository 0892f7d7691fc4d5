"""Count parameters, zeros and multiply-accumulates in the shipped file, without running it."""

from __future__ import annotations

import math
import re

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric
from lightexp.core.tflite_graph import COMPUTE, Operator, TFLiteGraph

_PER_POSITION = ("CONV_2D", "DEPTHWISE_CONV_2D", "EXPAND_DIMS", "SQUEEZE")


@settings_dataclass
class Graph(Measurement):
    """Parameters, zeros and multiply-accumulates (MACs) of one example.

    `model/params` and `model/nonzeros` count all learnt constants; `model/sparsity` is the fraction of zeros in the
    kernels of computing operators, without biases. `compute/macs` is what a dense runtime computes;
    `compute/effective_macs` excludes multiplications by a zero of the kernel. `model/bits_per_weight` is the number of
    bits of all learnt constants as stored in the file, with 32 for each scale, per parameter.
    """

    version = 2
    gives = {
        "model/params": "min",
        "model/nonzeros": "min",
        "model/sparsity": "max",
        "model/bits_per_weight": "min",
        "compute/macs": "min",
        "compute/effective_macs": "min",
    }

    def measure(self, context: MeasurementContext) -> list[Metric]:
        """Measure `model/*` and `compute/*`."""
        from lightexp.backend.flatbuffer import read_graph

        graph = read_graph(context.tflite)
        params = sum(math.prod(tensor.shape) for tensor in graph.weights)
        zeros = sum(tensor.zeros for tensor in graph.weights)
        macs, effective_macs = count_macs(graph)
        return [
            Metric("model/params", params, "", "min", version=self.version),
            Metric("model/nonzeros", params - zeros, "", "min", version=self.version),
            Metric("model/sparsity", compute_sparsity(graph), "", "max", version=self.version),
            Metric("model/bits_per_weight", count_bits(graph) / max(params, 1), "bits", "min", version=self.version),
            Metric("compute/macs", macs, "", "min", version=self.version),
            Metric("compute/effective_macs", effective_macs, "", "min", version=self.version),
        ]


def compute_sparsity(graph: TFLiteGraph) -> float:
    """Compute the fraction of zeros over all kernels; a kernel that several operators share counts once."""
    kernels = {id(kernel): kernel for _, kernel in graph.kernels}.values()
    total = sum(math.prod(kernel.shape) for kernel in kernels)
    return sum(kernel.zeros for kernel in kernels) / total if total else 0.0


def count_bits(graph: TFLiteGraph) -> int:
    """Count the bits of all learnt constants, by their types, and of their scales."""
    bits = 0
    for tensor in graph.weights:
        bits_per_value = int(re.sub(r"\D", "", tensor.dtype))
        bits += math.prod(tensor.shape) * bits_per_value + 32 * len(tensor.scales)
    return bits


def count_macs(graph: TFLiteGraph) -> tuple[int, int]:
    """Count the multiply-accumulates of one example.

    Returns:
        All of them, and those whose kernel value is not zero (rounded).
    """
    density = {op.outputs: 1 - kernel.zeros / math.prod(kernel.shape) for op, kernel in graph.kernels}
    batch = graph.tensors[graph.inputs[0]].shape[0]
    sizes = _count_elements(graph)
    macs = effective_macs = 0.0
    for op in graph.ops:
        if op.kind in COMPUTE:
            op_macs = _count_op_macs(op, graph, sizes) / batch
            macs += op_macs
            effective_macs += op_macs * density.get(op.outputs, 1.0)
    return round(macs), round(effective_macs)


def _count_op_macs(op: Operator, graph: TFLiteGraph, sizes: list[int]) -> int:
    """Count the multiply-accumulates of an operator for the entire batch of the file."""
    first, second = (graph.tensors[index].shape for index in op.inputs[:2])
    out = graph.tensors[op.outputs[0]].shape
    if op.kind == "BATCH_MATMUL":
        # Either factor may be stored transposed; the axis that is not the output's is summed over.
        return math.prod(out) * (first[-1] if first[-2] == out[-2] else first[-2])
    if op.kind == "FULLY_CONNECTED":
        return sizes[op.inputs[0]] * second[0]
    # The second input is the kernel. Each position uses all of it once: each position of the output or, in a
    # transposed convolution, each position of the input (operand 2).
    positions = op.inputs[2] if op.kind == "TRANSPOSE_CONV" else op.outputs[0]
    return sizes[positions] // graph.tensors[positions].shape[-1] * math.prod(second)


def _count_elements(graph: TFLiteGraph) -> list[int]:
    """Count the elements of each tensor.

    The file stores unknown dimensions as 1: in a dense layer over several positions (a product of two matrices), batch
    times positions; in a dilated convolution, batch times grids. The true sizes follow from the preceding tensors.
    """
    sizes = [math.prod(tensor.shape) for tensor in graph.tensors]
    for op in graph.ops:
        if op.kind in ("SPACE_TO_BATCH_ND", *_PER_POSITION):
            grids = sizes[op.inputs[0]] // math.prod(graph.tensors[op.inputs[0]].shape)
            blocks = graph.tensors[op.inputs[1]].data if op.kind == "SPACE_TO_BATCH_ND" else None
            if blocks is not None and graph.tensors[op.outputs[0]].shape[0] == 1:
                grids *= math.prod(blocks.tolist())
            sizes[op.outputs[0]] *= grids
        if op.kind == "RESHAPE":
            sizes[op.outputs[0]] = max(sizes[op.inputs[0]], sizes[op.outputs[0]])
        elif op.kind == "FULLY_CONNECTED":
            units, inputs = graph.tensors[op.inputs[1]].shape
            sizes[op.outputs[0]] = sizes[op.inputs[0]] // inputs * units
    return sizes
