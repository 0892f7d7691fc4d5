"""Helpers for tests of `.lxe` files: constants, flatbuffers that hold them, and bounds on their encoded size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from lightexp.core.tflite_graph import ConstantSpan
from lightexp.export import constants, lxe, packing

MODELS = Path(__file__).parents[2] / "experiments" / "benchmarks" / "encoding_models"
WIDTHS = {"u1": 8, "i1": 8, "i2": 16, "i4": 32, "i8": 64, "f2": 16, "f4": 32, "f8": 64}


def make_span(array: np.ndarray, start: int = 0) -> ConstantSpan:
    """Return the span of an array whose bytes begin at `start`."""
    return ConstantSpan(start, array.nbytes, WIDTHS[array.dtype.str[1:]], array.dtype.kind == "f", array.shape)


def encode_and_decode(content: bytes, spans: list[ConstantSpan]) -> bytes:
    """Return the encoded file, after checking that it decodes to `content`."""
    encoded = lxe.encode(content, spans)
    assert lxe.decode(encoded) == content
    return encoded


def compute_entropy(values: np.ndarray) -> float:
    """Return the bytes that values take by their order-0 entropy."""
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def compute_bound(content: bytes, spans: list[ConstantSpan]) -> float:
    """Return how many bytes the constants may take: little more than their order-0 entropy and codebooks."""
    total = 512.0
    for span in spans:
        values = constants.unpack_values(content[span.start : span.start + span.length], span.width)
        distinct = len(np.unique(values))
        if span.floats and distinct > 256:
            zeros = values << values.dtype.type(1) == 0
            total += 1.01 * (compute_entropy(zeros) + np.count_nonzero(~zeros) * span.width / 8) + 64
        else:
            total += 1.05 * compute_entropy(values) + distinct * span.width / 8 + 64
    return total


def measure_constants(content: bytes, encoded: bytes, spans: list[ConstantSpan]) -> int:
    """Return the bytes of the constants: all but what the rest of the file takes when compressed alone."""
    end, rest = 0, []
    for span in spans:
        rest.append(content[end : span.start])
        end = span.start + span.length
    return len(encoded) - len(packing.compress(b"".join([*rest, content[end:]])))


def measure_frame(encoded: bytes) -> int:
    """Return the bytes of an encoded file that are not of its constants: the header and the packed rest."""
    _, sizes, start = lxe.read_header(encoded)
    return start + sizes[-1]


def build_flatbuffer(arrays: list[tuple[np.ndarray, int]], external: bool = False) -> bytes:
    """Return a `.tflite` that holds constants and no operator.

    Args:
        arrays: Each constant with its type in the schema.
        external: Whether the constants lie behind the flatbuffer.
    """
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [schema.BufferT()], []
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [], [], [], []
    for number, (array, kind) in enumerate(arrays):
        tensor, buffer = schema.TensorT(), schema.BufferT()
        tensor.name, tensor.type, tensor.buffer = f"w{number}".encode(), kind, number + 1
        tensor.shape = list(array.shape)
        if external:
            buffer.offset, buffer.size = 2, array.nbytes  # a default value would not be stored
        else:
            buffer.data = array.view(np.uint8).reshape(-1)
        graph.tensors.append(tensor)
        model.buffers.append(buffer)
    if not external:
        return pack_model(model)
    content = b""
    start = len(pack_model(model))
    for buffer, (array, _) in zip(model.buffers[1:], arrays, strict=True):
        buffer.offset = start + len(content)
        content += array.tobytes()
    return pack_model(model) + content


def pack_model(model: schema.ModelT) -> bytes:
    """Return a model as a `.tflite` file."""
    import flatbuffers

    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def prune_weights(weights: np.ndarray, share: float = 0.95) -> np.ndarray:
    """Set the smallest weights to zero."""
    return np.where(np.abs(weights) < np.quantile(np.abs(weights), share), 0, weights).astype(np.float32)


def round_weights(weights: np.ndarray, values: int = 15) -> np.ndarray:
    """Round weights to few values at equal distances."""
    step = np.abs(weights).max() / (values // 2)
    return (np.round(weights / step) * step + 0.0).astype(np.float32)
