"""Write `.tflite` files as importers and runtimes for embedded devices need them.

They want tensors of a fixed batch size, operators that declare the version of their kernel, options of every RESHAPE,
and constants inside the flatbuffer at multiples of 16 bytes.
"""

from __future__ import annotations

import copy
import struct
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from lightexp.backend.metadata import AligningBuilder
from lightexp.backend.operator_versions import declare_versions
from lightexp.core.regular_files import read_bytes

OPEN_BATCH = b"lightexp_open_batch"
"""Name of the metadata entry of a file whose batch was open, so that it can still be run in batches of any size."""


def make_embeddable(content: bytes, unsigned_io: bool = False) -> bytes:
    """Return a `.tflite` file for embedded devices that computes the same.

    Args:
        content: The file.
        unsigned_io: Whether int8 inputs and outputs become uint8. Defaults to False.
    """
    model = read_model(content)
    if unsigned_io:
        _make_io_unsigned(model)
    for graph in model.subgraphs:
        _add_reshape_options(model, graph)
    if all(_has_open_batch_only(model, graph) for graph in model.subgraphs):
        _fix_batch(model)
    declare_versions(model)
    return pack(model)


def read_model(content: bytes) -> Any:
    """Return a file as a `ModelT`, its constants inside and its operator codes in the newer field."""
    from ai_edge_litert.tools import flatbuffer_utils  # resolves constants behind the flatbuffer

    model = flatbuffer_utils.read_model_from_bytearray(content)
    for buffer in model.buffers:
        buffer.data = None if buffer.data is None else np.frombuffer(buffer.data, np.uint8)
    for code in model.operatorCodes:
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
    return model


def has_open_batch(path: Path) -> bool:
    """Return whether a file says that it can be run in batches of any size, although its tensors have one."""
    try:
        model = schema.Model.GetRootAs(read_bytes(path))
        return any(model.Metadata(i).Name() == OPEN_BATCH for i in range(model.MetadataLength()))
    except (struct.error, TypeError, ValueError, OverflowError):  # broken metadata, which LiteRT does not read
        return False


def pack(model: Any) -> bytes:
    """Return the flatbuffer of a `ModelT`, its constants aligned as the schema demands."""
    builder = AligningBuilder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _has_open_batch_only(model: Any, graph: Any) -> bool:
    """Return whether each input leaves its first axis open, of length 1 in the file, and all shapes follow from that.

    A graph that computes shapes states none for the tensors that have them.
    """
    if any(_get_kind(model, operator) == schema.BuiltinOperator.SHAPE for operator in graph.operators):
        return False
    inputs = [graph.tensors[index] for index in graph.inputs]
    return all(
        tensor.shapeSignature is not None
        and [axis for axis, length in enumerate(tensor.shapeSignature) if length == -1] == [0]
        and tensor.shape[0] == 1
        for tensor in inputs
    )


def _get_kind(model: Any, operator: Any) -> int:
    return int(model.operatorCodes[operator.opcodeIndex].builtinCode)


def _fix_batch(model: Any) -> None:
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.shapeSignature = None
    model.metadata = [*(model.metadata or []), schema.MetadataT(name=OPEN_BATCH, buffer=0)]


def _add_reshape_options(model: Any, graph: Any) -> None:
    """State the new shape of each RESHAPE in its options, where its second input alone states it."""
    for operator in graph.operators:
        is_reshape = _get_kind(model, operator) == schema.BuiltinOperator.RESHAPE
        if not is_reshape or operator.builtinOptions is not None or len(operator.inputs) < 2:
            continue
        shape = model.buffers[graph.tensors[operator.inputs[1]].buffer].data
        if shape is not None and len(shape):  # it is not computed
            operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
            operator.builtinOptions = schema.ReshapeOptionsT(newShape=shape.view("<i4"))


def _make_io_unsigned(model: Any) -> None:
    """Put a QUANTIZE between uint8 inputs and the int8 ones of a model, and one behind int8 outputs.

    Args:
        model: A `ModelT`, which is changed.
    """
    graph = model.subgraphs[0]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
    code.version = 1
    model.operatorCodes.append(code)
    renamed = {}
    for place in (graph.inputs, graph.outputs):
        for position, inner in enumerate(place):
            signed = graph.tensors[inner]
            if signed.type != schema.TensorType.INT8:
                continue
            unsigned, outer = copy.deepcopy(signed), len(graph.tensors)
            unsigned.type, unsigned.buffer = schema.TensorType.UINT8, 0
            unsigned.quantization.zeroPoint = [int(zero) + 128 for zero in signed.quantization.zeroPoint]
            signed.name = bytes(signed.name) + b"_int8"
            graph.tensors.append(unsigned)
            is_input = place is graph.inputs
            step = schema.OperatorT()
            step.opcodeIndex = len(model.operatorCodes) - 1
            step.inputs, step.outputs = ([outer], [inner]) if is_input else ([inner], [outer])
            graph.operators.insert(0 if is_input else len(graph.operators), step)
            place[position] = renamed[inner] = outer
    for signature in model.signatureDefs or []:
        for port in (*signature.inputs, *signature.outputs):
            port.tensorIndex = renamed.get(port.tensorIndex, port.tensorIndex)
