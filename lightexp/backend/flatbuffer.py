"""Read a `.tflite` file into plain arrays without running any of it, so that files of any origin are safe to read."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from lightexp.backend.operator_options import read_options
from lightexp.core import compat
from lightexp.core.errors import BadInput
from lightexp.core.regular_files import read_bytes
from lightexp.core.tflite_graph import ConstantSpan, Operator, Tensor, TFLiteGraph

_T = TypeVar("_T")
_SHARING_ALLOWANCE, _SHARING_RATIO = 10**7, 4  # bytes, and bytes for each of the file's, that its tables may name
_TYPES = {value: name for name, value in vars(schema.TensorType).items() if name.isupper()}
_OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
_NUMPY_TYPES = (
    "FLOAT16",
    "FLOAT32",
    "FLOAT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "BOOL",
)
_PACKED_BITS = {"INT2": 2, "INT4": 4, "UINT4": 4}
_WIDTHS = {name: np.dtype(name.lower()).itemsize * 8 for name in _NUMPY_TYPES} | _PACKED_BITS | {"BFLOAT16": 16}
_OPAQUE_TYPES = ("STRING", "RESOURCE", "VARIANT")
_recent: list[tuple[bytes, TFLiteGraph]] = []  # the files that were parsed last, the newest first


def read_graph(path: Path) -> TFLiteGraph:
    """Read the main subgraph of a `.tflite` file.

    Args:
        path: The file.

    Returns:
        The graph. A tensor's dimensions that the file leaves open, such as the batch, are 1. Values narrower than a
        byte are unpacked into one int8 (or uint8) each.

    Raises:
        BadInput: If the file cannot be read, is no `.tflite` file, is truncated or corrupt, or stores weights in a
            way that lightexp does not support.
    """
    return _read_with(path, _parse_graph)


def read_constant_spans(path: Path, quantization: bool = False) -> list[ConstantSpan]:
    """Return where the constants of all subgraphs lie in a `.tflite` file, in order and without overlaps.

    Args:
        path: The file.
        quantization: Whether to list the scales and zero points of channels, too. Defaults to False.

    Raises:
        BadInput: As `read_graph`.
    """
    return _read_with(path, partial(_parse_spans, quantization=quantization))


def replace_constant(content: bytes, tensor: int, values: NDArray[np.float32]) -> bytes:
    """Return a file with other values in one float32 constant and all other bytes unchanged.

    Args:
        content: A valid file.
        tensor: Index of the tensor in the main subgraph.
        values: As many values as the tensor has.

    Raises:
        ValueError: If the number of values differs.
    """
    model = schema.Model.GetRootAs(content)
    start, length = _locate_bytes(model.Buffers(model.Subgraphs(0).Tensors(tensor).Buffer()))
    data = np.ascontiguousarray(values, "<f4").tobytes()
    if len(data) != length:
        raise ValueError(f"{len(data)} bytes cannot replace {length}")
    return content[:start] + data + content[start + length :]


def _read_with(path: Path, parse: Callable[[bytes], _T]) -> _T:
    """Return what `parse` makes of a file's bytes; turn its exceptions into one line for the user."""
    try:
        content = read_bytes(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}. Give the path of a .tflite file.") from None
    if content[4:8] != b"TFL3":
        raise BadInput(f"{path} ({len(content)} bytes) is not a .tflite file. Give one that TensorFlow Lite wrote.")
    try:
        return parse(content)
    except _UnsupportedFormat as error:
        raise BadInput(f"{path} cannot be measured: {error}.") from None
    except (struct.error, ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise BadInput(f"{path} ({len(content)} bytes) is cut off or broken: {error!s:.300}. Make it again.") from None


class _UnsupportedFormat(Exception):
    """A valid file that stores something in a way that lightexp does not read."""


def _parse_graph(content: bytes) -> TFLiteGraph:
    """Return the main subgraph of a file: the steps of a run read two files again and again.

    Comparing the bytes of two files is far cheaper than a hash of them, which `lru_cache` would take.
    """
    recent = next((pair for pair in _recent if pair[0] == content), None)
    if recent is None:
        recent = content, _parse_new_graph(content)
    _recent[:] = [recent, *(pair for pair in _recent if pair is not recent)][:2]
    return recent[1]


def _parse_new_graph(content: bytes) -> TFLiteGraph:
    model = schema.Model.GetRootAs(content)
    spans = [_locate_bytes(model.Buffers(i)) for i in range(model.BuffersLength())]
    buffers = [_read_bytes(content, *span) for span in spans]
    graph = model.Subgraphs(0)
    tables = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    blockwise = [_read_blockwise(table) for table in tables]
    operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
    _check_sharing(len(content), [length for _, length in spans], tables, blockwise, operators)
    kinds = [_get_operator_name(model.OperatorCodes(i)) for i in range(model.OperatorCodesLength())]
    # The scales of block-wise quantisation are stored as tensors, but are no weights.
    scale_tensors = {quantization.Scales() for quantization in blockwise if quantization}
    tensors = tuple(
        _parse_tensor(
            table, None if index in scale_tensors else buffers[table.Buffer()], blockwise[index], tables, buffers
        )
        for index, table in enumerate(tables)
    )
    ops = tuple(
        Operator(kind, _read_ints(op, "Inputs"), _read_ints(op, "Outputs"), read_options(op, kind))
        for op in operators
        for kind in [kinds[op.OpcodeIndex()]]
    )
    parsed = TFLiteGraph(tensors, ops, _read_ints(graph, "Inputs"), _read_ints(graph, "Outputs"))
    _check_order(parsed)
    return parsed


def _check_sharing(
    size: int, lengths: list[int], tables: list[Any], blockwise: list[Any], operators: list[Any]
) -> None:
    """Check that what is to be read is not far more than the file: any number of tables can share one vector.

    Args:
        size: Bytes of the file.
        lengths: Bytes of each buffer.
        tables: The tensors.
        blockwise: The block-wise quantisation of each tensor, or None.
        operators: The operators.

    Raises:
        ValueError: If it is.
    """
    remaining = _SHARING_ALLOWANCE + _SHARING_RATIO * size
    for table, blocks in zip(tables, blockwise, strict=True):
        remaining -= len(table.Name() or b"") + 4 * table.ShapeLength() + lengths[table.Buffer()]
        if quantization := table.Quantization():
            remaining -= 4 * quantization.ScaleLength() + 8 * quantization.ZeroPointLength()
        if blocks:  # its scales are a tensor, which is read again for this one
            remaining -= 4 * lengths[tables[blocks.Scales()].Buffer()]
        if remaining < 0:
            raise ValueError("its tensors share more than a file can hold")
    for op in operators:
        remaining -= 4 * (op.InputsLength() + op.OutputsLength())
        if remaining < 0:
            raise ValueError("its operators share more than a file can hold")


def _check_order(model: TFLiteGraph) -> None:
    """Check that every index names a tensor and that no operator reads what a later one computes.

    Following a tensor back to its operator then always ends.

    Raises:
        ValueError: If it does not hold.
    """
    index_lists = [model.inputs, model.outputs, *(op.inputs for op in model.ops), *(op.outputs for op in model.ops)]
    if not all(-1 <= index < len(model.tensors) for indices in index_lists for index in indices):
        raise ValueError("an operator names a tensor that is not there")
    computed = [output for op in model.ops for output in op.outputs]
    pending = set(computed)
    if len(computed) != len(pending):
        raise ValueError("two operators make the same tensor")
    for op in model.ops:
        if not pending.isdisjoint(op.inputs):
            raise ValueError(f"a {op.kind} reads a tensor that has not been made yet")
        pending.difference_update(op.outputs)


def _read_ints(table: Any, field: str) -> tuple[int, ...]:
    if getattr(table, f"{field}IsNone")():
        return ()
    return tuple(getattr(table, f"{field}AsNumpy")().tolist())


def _locate_bytes(buffer: Any) -> tuple[int, int]:
    """Return start and length of a buffer's bytes: inside the flatbuffer or, in large files, behind it."""
    if buffer.Offset() > 1:
        return buffer.Offset(), buffer.Size()
    if not buffer.DataLength():
        return 0, 0
    return compat.locate_first_vector(buffer), buffer.DataLength()


def _read_bytes(content: bytes, start: int, length: int) -> NDArray[np.uint8] | None:
    return np.frombuffer(content, np.uint8, length, start) if length else None


def _parse_spans(content: bytes, quantization: bool) -> list[ConstantSpan]:
    base = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
    model = schema.Model.GetRootAs(content)
    spans: dict[int, ConstantSpan] = {}
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
            start, length = _locate_bytes(model.Buffers(tensor.Buffer()))
            dtype = _TYPES[tensor.Type()]
            if length and dtype in _WIDTHS:
                span = ConstantSpan(start, length, _WIDTHS[dtype], "FLOAT" in dtype, _read_ints(tensor, "Shape"))
                spans.setdefault(start, span)
            for start, span in _list_quantization(tensor, base) if quantization else ():
                spans.setdefault(start, span)
    ordered, end = [], 0
    for start in sorted(spans):
        if end <= start and start + spans[start].length <= len(content):
            ordered.append(spans[start])
            end = start + spans[start].length
    return ordered


def _list_quantization(tensor: Any, base: int) -> Iterator[tuple[int, ConstantSpan]]:
    """Yield where scales and zero points of channels lie; `base` is the address of the file's first byte."""
    quantization = tensor.Quantization()
    if quantization and quantization.ScaleLength() > 1:
        for values in (quantization.ScaleAsNumpy(), quantization.ZeroPointAsNumpy()):
            if np.size(values) > 1:
                start = values.__array_interface__["data"][0] - base
                width = 8 * values.dtype.itemsize
                yield start, ConstantSpan(start, values.nbytes, width, values.dtype.kind == "f", values.shape)


def _get_operator_name(code: Any) -> str:
    # Older writers store codes up to 127 in a one-byte field; that field is 127 for all later codes.
    name: str = _OPERATORS[max(code.DeprecatedBuiltinCode(), code.BuiltinCode())]
    return name


def _read_blockwise(tensor: Any) -> Any:
    """Return a tensor's block-wise quantisation, or None if it is not quantised in blocks."""
    quantization = tensor.Quantization()
    if not quantization or not quantization.DetailsType():
        return None
    if quantization.DetailsType() != schema.QuantizationDetails.BlockwiseQuantization:
        raise _UnsupportedFormat(
            "a tensor is quantised by a custom scheme. Quantise it per tensor, per channel or in blocks"
        )
    blockwise = schema.BlockwiseQuantization()
    blockwise.Init(quantization.Details().Bytes, quantization.Details().Pos)
    return blockwise


def _parse_tensor(
    table: Any,
    raw: NDArray[np.uint8] | None,
    blockwise: Any,
    tables: list[Any],
    buffers: list[NDArray[np.uint8] | None],
) -> Tensor:
    """Return a tensor with its values and quantisation.

    Args:
        table: The tensor's table in the file.
        raw: Bytes of its constant values, or None.
        blockwise: Its block-wise quantisation, or None.
        tables: The tables of all tensors, for the scales of blocks.
        buffers: The bytes of all buffers.
    """
    name = (table.Name() or b"").decode(errors="replace")
    shape = _read_ints(table, "Shape")
    dtype = _TYPES[table.Type()]
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    block = 0
    if blockwise:
        block = blockwise.BlockSize()
        scales = tuple(np.asarray(buffers[tables[blockwise.Scales()].Buffer()]).view("<f2").tolist())
        if block < 1 or len(scales) * block != math.prod(shape):
            raise ValueError(f"'{name}' of shape {shape} has {len(scales)} blocks of {block}")
    elif (quantization := table.Quantization()) and quantization.ScaleLength():
        scales = tuple(quantization.ScaleAsNumpy().tolist())
        zero_points = _read_ints(quantization, "ZeroPoint")
    if raw is None or dtype in _OPAQUE_TYPES:
        return Tensor(name, shape, dtype, None, scales, zero_points, block)
    if table.Sparsity():
        raise _UnsupportedFormat(
            f"'{name}' is stored in TensorFlow Lite's sparse format. Convert it without EXPERIMENTAL_SPARSITY"
        )
    return Tensor(name, shape, dtype, _parse_values(name, dtype, raw, shape), scales, zero_points, block)


def _parse_values(name: str, dtype: str, raw: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.generic]:
    count = math.prod(shape)
    values: NDArray[np.generic]
    if dtype in _NUMPY_TYPES:
        values = raw.view(np.dtype(dtype.lower()).newbyteorder("<"))
    elif dtype in _PACKED_BITS:
        bits = _PACKED_BITS[dtype]
        values = unpack_integers(raw, bits, signed=not dtype.startswith("U"))
        if 0 <= len(values) - count < 8 // bits:  # the last byte is padded
            values = values[:count]
    else:
        raise _UnsupportedFormat(f"'{name}' holds {dtype}. Use float32, float16 or integers")
    if len(values) != count:
        raise ValueError(f"'{name}' of shape {shape} holds {len(values)} values")
    return values.reshape(shape)


def unpack_integers(raw: NDArray[np.uint8], bits: int, signed: bool) -> NDArray[np.generic]:
    """Unpack integers narrower than a byte, the lowest bits of each byte first.

    Args:
        raw: The bytes, `(n,)`.
        bits: Width of an integer: 2 or 4.
        signed: Whether the integers are signed.

    Returns:
        `(n * 8 // bits,)`, int8 or uint8.
    """
    # Shifting each integer to the top of a byte and back extends its sign.
    shifted = (raw[:, None] << np.arange(8 - bits, -1, -bits, dtype=np.uint8)).reshape(-1)
    return (shifted.view(np.int8) if signed else shifted) >> (8 - bits)
