"""What a quantised file holds otherwise than it was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from lightexp.core.tflite_graph import TFLiteGraph
from lightexp.stages.kernel_format import KernelFormat

AS_REQUESTED = "as asked"
"""The reason of a kernel that is float because its layer was named so."""


def make_note(names: Sequence[str], formats: Sequence[KernelFormat], float_tensors: Sequence[str]) -> str:
    """Return a note on what is not quantised as requested; empty if everything is."""
    notes = []
    deviations = dict.fromkeys(
        f"{name} ({form.reason})"
        for name, form in zip(names, formats, strict=True)
        if form.reason not in ("", AS_REQUESTED)
    )
    if deviations:
        notes.append(f"not as asked: {', '.join(deviations)}")
    if float_tensors:
        notes.append(f"in float: {', '.join(float_tensors)}")
    return "; ".join(notes)


def list_float_tensors(graph: TFLiteGraph, activations: bool) -> list[str]:
    """Return weight matrices (other than kernels) that are still float, and operators with float results.

    Args:
        graph: The quantised file.
        activations: Whether activations are quantised, so that operators are checked.
    """
    kernels = {kernel.name for _, kernel in graph.kernels}
    float_tensors = [
        tensor.name
        for tensor in graph.weights
        if tensor.dtype == "FLOAT32" and len(tensor.shape) > 1 and tensor.name not in kernels
    ]
    if activations:
        writers = {output: op.kind for op in graph.ops for output in op.outputs if op.kind != "DEQUANTIZE"}
        for index, kind in writers.items():
            tensor = graph.tensors[index]
            if tensor.dtype == "FLOAT32":
                float_tensors.append(f"{kind} '{tensor.name}'")
    return float_tensors
