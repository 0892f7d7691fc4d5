"""Reads a `.tflite` file into plain arrays. Runs nothing of it, so that any file may be looked at."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]
from numpy.typing import NDArray

from lightexp.core.errors import BadInput
from lightexp.core.tflite_graph import ConstantSpan, Operator, Tensor, TFLiteGraph

_T = TypeVar("_T")
_TYPES = {value: name for name, value in vars(schema.TensorType).items() if name.isupper()}
_OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
_PLAIN = (
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
_PACKED = {"INT2": 2, "INT4": 4, "UINT4": 4}
_WIDTHS = {name: np.dtype(name.lower()).itemsize * 8 for name in _PLAIN} | _PACKED | {"BFLOAT16": 16}
_OPAQUE = ("STRING", "RESOURCE", "VARIANT")


def read_graph(path: Path) -> TFLiteGraph:
    """Reads the main subgraph of a `.tflite` file.

    Args:
        path: The file.

    Returns:
        The model. A tensor's dimensions that the file leaves open, such as the batch, are 1. Values narrower than a
        byte are unpacked into one int8 (or uint8) each.

    Raises:
        BadInput: If the file cannot be read, is no `.tflite` file, is cut off or broken, or stores weights in a way
            that lightexp does not know.
    """
    return _from(path, _model)


def read_constant_spans(path: Path) -> list[ConstantSpan]:
    """Where the constants of all subgraphs' tensors lie in a `.tflite` file, in order; none overlaps another.

    Raises:
        BadInput: As `read`.
    """
    return _from(path, _constants)


def replace_constant(content: bytes, tensor: int, values: NDArray[np.float32]) -> bytes:
    """A sound file with other values in one of its float32 constants, all else to the bit.

    Args:
        content: The file.
        tensor: Index of the tensor in the main subgraph.
        values: As many as there are.
    """
    model = schema.Model.GetRootAs(content)
    start, length = _place(model.Buffers(model.Subgraphs(0).Tensors(tensor).Buffer()))
    data = np.ascontiguousarray(values, "<f4").tobytes()
    if len(data) != length:
        raise ValueError(f"{len(data)} bytes cannot replace {length}")
    return content[:start] + data + content[start + length :]


def _from(path: Path, taken: Callable[[bytes], _T]) -> _T:
    """What is taken from a file's bytes, or one clear line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}. Give the path of a .tflite file.") from None
    if content[4:8] != b"TFL3":
        raise BadInput(f"{path} ({len(content)} bytes) is not a .tflite file. Give one that TensorFlow Lite wrote.")
    try:
        return taken(content)
    except _Unknown as error:
        raise BadInput(f"{path} cannot be measured: {error}.") from None
    except (struct.error, ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise BadInput(f"{path} ({len(content)} bytes) is cut off or broken: {error}. Make it again.") from None


class _Unknown(Exception):
    """A sound file that stores something in a way that is not known here."""


@lru_cache(2)  # a run's steps read two files again and again: what they start from, and what they make
def _model(content: bytes) -> TFLiteGraph:
    model = schema.Model.GetRootAs(content)
    buffers = [_bytes(content, *_place(model.Buffers(i))) for i in range(model.BuffersLength())]
    graph = model.Subgraphs(0)
    codes = [_operator(model.OperatorCodes(i)) for i in range(model.OperatorCodesLength())]
    tables = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    blocks = [_blocks(table) for table in tables]
    scales = {each.Scales() for each in blocks if each}  # kept as tensors, but no weights
    tensors = tuple(
        _tensor(table, None if index in scales else buffers[table.Buffer()], blocks[index], tables, buffers)
        for index, table in enumerate(tables)
    )
    steps = [graph.Operators(i) for i in range(graph.OperatorsLength())]
    ops = tuple(Operator(codes[s.OpcodeIndex()], _ints(s, "Inputs"), _ints(s, "Outputs")) for s in steps)
    found = TFLiteGraph(tensors, ops, _ints(graph, "Inputs"), _ints(graph, "Outputs"))
    _check_order(found)
    return found


def _check_order(model: TFLiteGraph) -> None:
    """Makes sure that every index is a tensor's and that no operator reads what a later one makes.

    Whoever follows a tensor back to its maker then comes to an end.
    """
    ends = [model.inputs, model.outputs, *(op.inputs for op in model.ops), *(op.outputs for op in model.ops)]
    if not all(-1 <= index < len(model.tensors) for indices in ends for index in indices):
        raise ValueError("an operator names a tensor that is not there")
    to_come = [out for op in model.ops for out in op.outputs]
    waiting = set(to_come)
    if len(to_come) != len(waiting):
        raise ValueError("two operators make the same tensor")
    for op in model.ops:
        if not waiting.isdisjoint(op.inputs):
            raise ValueError(f"a {op.kind} reads a tensor that has not been made yet")
        waiting.difference_update(op.outputs)


def _ints(table: Any, name: str) -> tuple[int, ...]:
    if getattr(table, f"{name}IsNone")():
        return ()
    return tuple(getattr(table, f"{name}AsNumpy")().tolist())


def _place(buffer: Any) -> tuple[int, int]:
    """Start and number of a buffer's bytes in the file: inside the flatbuffer or, in large files, behind it."""
    if buffer.Offset() > 1:
        return buffer.Offset(), buffer.Size()
    table = buffer._tab  # the generated code gives the bytes, not their place
    return (table.Vector(table.Offset(4)) if buffer.DataLength() else 0), buffer.DataLength()


def _bytes(content: bytes, start: int, length: int) -> NDArray[np.uint8] | None:
    return np.frombuffer(content, np.uint8, length, start) if length else None


def _constants(content: bytes) -> list[ConstantSpan]:
    model = schema.Model.GetRootAs(content)
    found: dict[int, ConstantSpan] = {}
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
            start, length = _place(model.Buffers(tensor.Buffer()))
            kind = _TYPES[tensor.Type()]
            if length and kind in _WIDTHS:
                stored = ConstantSpan(start, length, _WIDTHS[kind], "FLOAT" in kind, _ints(tensor, "Shape"))
                found.setdefault(start, stored)
    ordered, end = [], 0
    for start in sorted(found):
        if end <= start and start + found[start].length <= len(content):
            ordered.append(found[start])
            end = start + found[start].length
    return ordered


def _operator(code: Any) -> str:
    # Files give codes up to 127 in the old, one-byte field, where later ones stand as 127.
    name: str = _OPERATORS[max(code.DeprecatedBuiltinCode(), code.BuiltinCode())]
    return name


def _blocks(tensor: Any) -> Any:
    """How a tensor is quantised in blocks, or None."""
    quantization = tensor.Quantization()
    if not quantization or not quantization.DetailsType():
        return None
    if quantization.DetailsType() != schema.QuantizationDetails.BlockwiseQuantization:
        raise _Unknown("a tensor is quantised by a custom scheme. Quantise it per tensor, per channel or in blocks")
    found = schema.BlockwiseQuantization()
    found.Init(quantization.Details().Bytes, quantization.Details().Pos)
    return found


def _tensor(
    tensor: Any, raw: NDArray[np.uint8] | None, blocks: Any, tables: list[Any], buffers: list[NDArray[np.uint8] | None]
) -> Tensor:
    name = (tensor.Name() or b"").decode(errors="replace")
    shape = _ints(tensor, "Shape")
    kind = _TYPES[tensor.Type()]
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    block = 0
    if blocks:
        block, held = blocks.BlockSize(), buffers[tables[blocks.Scales()].Buffer()]
        scales = tuple(np.asarray(held).view("<f2").tolist())
        if block < 1 or len(scales) * block != math.prod(shape):
            raise ValueError(f"'{name}' of shape {shape} has {len(scales)} blocks of {block}")
    elif (quantization := tensor.Quantization()) and quantization.ScaleLength():
        scales = tuple(quantization.ScaleAsNumpy().tolist())
        zero_points = _ints(quantization, "ZeroPoint")
    if raw is None or kind in _OPAQUE:
        return Tensor(name, shape, kind, None, scales, zero_points, block)
    if tensor.Sparsity():
        raise _Unknown(
            f"'{name}' is stored in TensorFlow Lite's sparse format. Convert it without EXPERIMENTAL_SPARSITY"
        )
    return Tensor(name, shape, kind, _values(name, kind, raw, shape), scales, zero_points, block)


def _values(name: str, kind: str, raw: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.generic]:
    count = math.prod(shape)
    if kind in _PLAIN:
        values = raw.view(np.dtype(kind.lower()).newbyteorder("<"))
    elif kind in _PACKED:
        values = _unpack(raw, _PACKED[kind], signed=not kind.startswith("U"))
        if 0 <= len(values) - count < 8 // _PACKED[kind]:
            values = values[:count]
    else:
        raise _Unknown(f"'{name}' holds {kind}. Use float32, float16 or integers")
    if len(values) != count:
        raise ValueError(f"'{name}' of shape {shape} holds {len(values)} values")
    return values.reshape(shape)


def _unpack(raw: NDArray[np.uint8], bits: int, signed: bool) -> NDArray[np.generic]:
    """Unpacks values of 2 or 4 bits, the lowest bits of a byte first."""
    # Each value is brought to the top of a byte; shifting back down copies its sign.
    top = (raw[:, None] << np.arange(8 - bits, -1, -bits, dtype=np.uint8)).reshape(-1)
    return (top.view(np.int8) if signed else top) >> (8 - bits)
