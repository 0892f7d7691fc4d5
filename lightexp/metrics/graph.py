"""What can be read off the shipped file without running it: parameters, zeros, multiply-accumulates."""

from __future__ import annotations

import math
import re

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric
from lightexp.core.tflite_graph import COMPUTE, Operator, TFLiteGraph

_PER_POSITION = ("CONV_2D", "DEPTHWISE_CONV_2D", "EXPAND_DIMS", "SQUEEZE")


@settings_dataclass
class Graph(Measurement):
    """Parameters, zeros and multiply-accumulates of one example.

    `model/params` and `model/nonzeros` count all learnt constants; `model/sparsity` is the share of zeros in the
    kernels of computing operators, biases left out. `compute/macs` is what a dense runtime does;
    `compute/effective_macs` leaves out the multiplications by a zero of the kernel. `model/bits_per_weight` are the
    bits of all learnt constants as they stand in the file, with 32 for each scale, over their number.
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

    def measure(self, subject: MeasurementContext) -> list[Metric]:
        """Measures `model/*` and `compute/*`."""
        from lightexp.backend.flatbuffer import read_graph

        model = read_graph(subject.tflite)
        params = sum(math.prod(t.shape) for t in model.weights)
        zeros = sum(t.zeros for t in model.weights)
        dense, effective = count_macs(model)
        return [
            Metric("model/params", params, "", "min", version=self.version),
            Metric("model/nonzeros", params - zeros, "", "min", version=self.version),
            Metric("model/sparsity", compute_sparsity(model), "", "max", version=self.version),
            Metric("model/bits_per_weight", count_bits(model) / max(params, 1), "bits", "min", version=self.version),
            Metric("compute/macs", dense, "", "min", version=self.version),
            Metric("compute/effective_macs", effective, "", "min", version=self.version),
        ]


def compute_sparsity(model: TFLiteGraph) -> float:
    """Share of zeros over all kernels; a kernel that several operators share counts once."""
    kernels = {id(kernel): kernel for _, kernel in model.kernels}.values()
    total = sum(math.prod(k.shape) for k in kernels)
    return sum(k.zeros for k in kernels) / total if total else 0.0


def count_bits(model: TFLiteGraph) -> int:
    """Bits of all learnt constants, as their types have them, and of their scales."""
    return sum(math.prod(t.shape) * int(re.sub(r"\D", "", t.dtype)) + 32 * len(t.scales) for t in model.weights)


def count_macs(model: TFLiteGraph) -> tuple[int, int]:
    """Multiply-accumulates of one example: all, and those whose kernel value is not zero (rounded)."""
    density = {op.outputs: 1 - k.zeros / math.prod(k.shape) for op, k in model.kernels}
    batch = model.tensors[model.inputs[0]].shape[0]
    sizes = _sizes(model)
    each = [(_macs(op, model, sizes) / batch, density.get(op.outputs, 1.0)) for op in model.ops if op.kind in COMPUTE]
    return round(sum(count for count, _ in each)), round(sum(count * share for count, share in each))


def _macs(op: Operator, model: TFLiteGraph, sizes: list[int]) -> int:
    """Multiply-accumulates of an operator for the whole of the file's batch."""
    first, second = (model.tensors[index].shape for index in op.inputs[:2])
    out = model.tensors[op.outputs[0]].shape
    if op.kind == "BATCH_MATMUL":
        # The file may hold either factor transposed; the side that is not the output's is the one summed over.
        return math.prod(out) * (first[-1] if first[-2] == out[-2] else first[-2])
    if op.kind == "FULLY_CONNECTED":
        return sizes[op.inputs[0]] * second[0]
    # Otherwise the second input is the kernel, and each position takes all of it once: each of the output's, or for a
    # transposed convolution each of the input's (its third).
    passed = op.inputs[2] if op.kind == "TRANSPOSE_CONV" else op.outputs[0]
    return sizes[passed] // model.tensors[passed].shape[-1] * math.prod(second)


def _sizes(model: TFLiteGraph) -> list[int]:
    """Elements of each tensor.

    A dense layer over several positions is stored as a product of two matrices whose open dimensions, batch times
    positions, the file gives as 1; of a dilated convolution, batch times the grids that the positions were parted into.
    Their sizes follow from the tensors before.
    """
    sizes = [math.prod(t.shape) for t in model.tensors]
    for op in model.ops:
        if op.kind in ("SPACE_TO_BATCH_ND", *_PER_POSITION):
            grids = sizes[op.inputs[0]] // math.prod(model.tensors[op.inputs[0]].shape)
            blocks = model.tensors[op.inputs[1]].data if op.kind == "SPACE_TO_BATCH_ND" else None
            if blocks is not None and model.tensors[op.outputs[0]].shape[0] == 1:
                grids *= math.prod(blocks.tolist())
            sizes[op.outputs[0]] *= grids
        if op.kind == "RESHAPE":
            sizes[op.outputs[0]] = max(sizes[op.inputs[0]], sizes[op.outputs[0]])
        elif op.kind == "FULLY_CONNECTED":
            units, inputs = model.tensors[op.inputs[1]].shape
            sizes[op.outputs[0]] = sizes[op.inputs[0]] // inputs * units
    return sizes
