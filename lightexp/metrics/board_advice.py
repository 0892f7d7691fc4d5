"""What to change about a file that a microcontroller refuses or has no room for: the layer, and the nearest setting."""

from __future__ import annotations

import math
import re

from lightexp.core.formatting import format_binary_bytes
from lightexp.core.memory_plan import find_peak, plan_memory, use_integer_io
from lightexp.core.tflite_graph import NARROW_TYPES, TFLiteGraph

_NODE = re.compile(r";? ?Node (\w+) \(number (\d+)\w?\) failed to \w+.*")
_WORTH_SAYING, _WORTH_SHARE = 1024, 0.1  # bytes of RAM that io=integer saves, and their share of the arena


def explain_refusal(message: str, graph: TFLiteGraph) -> str:
    """Return TFLite Micro's message with the layer in place of the operator's number, and what to do.

    Args:
        message: The interpreter's message.
        graph: The file.
    """
    node = _NODE.search(message)
    if not node or int(node[2]) >= len(graph.ops):
        return message
    op, reason = graph.ops[int(node[2])], message[: node.start()]
    layer = graph.name_layer(op)
    types = [graph.tensors[index].dtype for index in op.inputs[:2] if index >= 0]
    if reason.endswith("was not true") and len(types) == 2:  # a condition in C++
        reason = f"it takes no {types[1]} weights with {types[0]} inputs"
    advice = ""
    if any(dtype in NARROW_TYPES for dtype in types):
        advice = f". layers={{{layer}: 8}} of the stage that quantises keeps it at 8 bits"
    elif types[:2] == ["FLOAT32", "INT8"] or types[:1] == ["FLOAT16"]:
        advice = ". It needs 8-bit weights with 8-bit activations: quantize.scheme=int8"
    return f"TFLite Micro refuses layer '{layer}' ({op.kind}): {reason}{advice}"


def count_saved_ram(graph: TFLiteGraph) -> int:
    """Return by how many bytes `io=integer` would lower the peak of the activations."""
    peaks = [find_peak(plan_memory(form)) for form in (graph, use_integer_io(graph))]
    sizes = [peak.size for peak in peaks if peak]
    return sizes[0] - sizes[-1] if sizes else 0


def advise_io(graph: TFLiteGraph, arena: int) -> str | None:
    """Return what `io=integer` would save, if that is worth saying.

    Args:
        graph: The file.
        arena: Bytes of its arena.
    """
    saved = count_saved_ram(graph)
    if saved < max(_WORTH_SAYING, _WORTH_SHARE * arena):
        return None
    size = format_binary_bytes(saved)
    return f"inputs and outputs are float: io=integer of the stage that quantises would save {size} of RAM"


def advise_ram(graph: TFLiteGraph, arena: int, excess: int) -> str:
    """Return the nearest setting that lowers the RAM of a file, and the next one if that is not enough.

    Args:
        graph: The file.
        arena: Bytes of its arena.
        excess: Bytes that are missing.
    """
    if not _has_integer_activations(graph):
        return "quantize.scheme=int8 with io=integer takes about a quarter"
    saved = count_saved_ram(graph)
    if saved >= excess:
        return f"io=integer of the stage that quantises saves {format_binary_bytes(saved)}, which is enough"
    peak = find_peak(plan_memory(use_integer_io(graph)))
    if peak is None or 2 * peak.size < arena:
        advice = f"most is TFLite Micro's own data of {len(graph.ops)} operators: take fewer layers"
    else:
        size = format_binary_bytes(peak.size)
        advice = f"most is alive at layer '{peak.layer}' ({size}): narrow it (prune_channels)"
    if not saved:
        return advice
    size, missing = format_binary_bytes(saved), format_binary_bytes(excess)
    return f"io=integer of the stage that quantises saves {size} of {missing} that are missing; {advice}"


def advise_flash(graph: TFLiteGraph) -> str:
    """Return the nearest setting that makes a file smaller."""
    if not graph.quantized:
        return "quantize stores its weights in a quarter"
    if not graph.kernels:
        return "it has no layer to narrow"
    op, kernel = max(graph.kernels, key=lambda pair: math.prod(pair[1].shape))
    return f"layer '{graph.name_layer(op)}' has most weights ({kernel.dtype}): narrow it (prune_channels, factorize)"


def _has_integer_activations(graph: TFLiteGraph) -> bool:
    return any(tensor.data is None and tensor.dtype in ("INT8", "INT16") for tensor in graph.tensors)
