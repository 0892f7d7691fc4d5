"""Quantises a float `.tflite` with litert-quantizer, without TensorFlow."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]
from numpy.typing import NDArray

from lightexp.backend import flatbuffer
from lightexp.backend.stderr import silence_stderr
from lightexp.core.errors import BadInput
from lightexp.core.tflite_graph import TFLiteGraph

_ACTIVATIONS = {"int8": 8, "int16x8": 16}
_INLINE = 256 * 1024  # bytes of weights from which the quantiser puts them behind the flatbuffer
_BIAS = 2.0**30  # as far as an int32 bias may go, so that the sum it is added to has room


def quantize(
    tflite: Path,
    ranges: NDArray[np.float32],
    scheme: str,
    bits: int,
    kernels: Sequence[Sequence[int]],
    integer_io: bool,
) -> NDArray[np.uint8]:
    """A post-training quantised flatbuffer of a float one.

    Args:
        tflite: The float file.
        ranges: Of its activations, `(tensors, 2)`, as `litert.collect_ranges` gives them; for `int8` and `int16x8`.
        scheme: `default` (as TensorFlow's converter does by default), `float16`, `dynamic`, `weight_only`, `int8` or
            `int16x8`.
        bits: Of weights that no kernel of `kernels` holds, such as an embedding's.
        kernels: Bits (2, 4, 8; 32 is float) and size of blocks (0: per channel) of each kernel of the file, in order.
        integer_io: Whether inputs and outputs are integers too (`int8` and `int16x8`).

    Returns:
        The file's bytes, all weights inside the flatbuffer, where every runtime finds them.

    Raises:
        BadInput: If the quantiser cannot take the file; says why.
    """
    from litert_quantizer import quantizer  # a second to import

    model = flatbuffer.read_graph(tflite)
    statistics = _statistics(model, ranges, scheme, kernels) if scheme in _ACTIVATIONS else None
    try:
        with silence_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = tflite.read_bytes()
            source = _packed(source) if _old(source) else source
            work = quantizer.Quantizer(source, _recipe(model, scheme, bits, kernels, integer_io))
            content = bytes(work.quantize(statistics, enable_progress_report=False).quantized_model)
    except Exception as error:  # it raises whatever it meets in a file that others made
        words = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{tflite} cannot be quantised ({scheme}): {words[:200]}. Try another scheme.") from None
    return np.frombuffer(content if len(content) < _INLINE else _packed(content), np.uint8)


def _recipe(
    model: TFLiteGraph, scheme: str, bits: int, kernels: Sequence[Sequence[int]], integer_io: bool
) -> list[dict[str, Any]]:
    """What to do with which operator; of rules that match the same, the last counts."""
    if scheme == "default":
        return [_rule(".*", scheme, 8, 0, min_weight_elements=1024)]
    if scheme == "float16":
        return [_rule(".*", scheme, 16, 0)]
    base = 8 if scheme in _ACTIVATIONS else bits
    rules = [_rule(".*", scheme, base, 0)]
    for (op, _), (wide, block) in zip(model.kernels, kernels, strict=True):
        if (wide, block) == (base, 0):
            continue
        scope = "".join(f"{model.tensors[index].name};" for index in op.outputs)
        name = "CONV_2D_TRANSPOSE" if op.kind == "TRANSPOSE_CONV" else op.kind
        rules.append({**_rule(f"^{re.escape(scope)}$", scheme, wide, block), "operation": name})
    if scheme in _ACTIVATIONS and not integer_io:
        rules += [{**_rule(".*", scheme, 32, 0), "operation": end} for end in ("INPUT", "OUTPUT")]
    return rules


def _rule(scope: str, scheme: str, bits: int, block: int, **more: Any) -> dict[str, Any]:
    if bits == 32:
        return {"regex": scope, "operation": "*", "algorithm_key": "no_quantize", "op_config": {}}
    real = scheme in ("float16", "weight_only")  # weights are made real before they are computed with
    weights = {
        "num_bits": bits,
        "symmetric": True,  # so that 0 stays 0
        "granularity": "TENSORWISE" if bits == 16 else f"BLOCKWISE_{block}" if block else "CHANNELWISE",
        "dtype": "FLOAT" if bits == 16 else "INT",
    }
    config = {
        "weight_tensor_config": weights,
        "compute_precision": "FLOAT" if real else "INTEGER",
        "explicit_dequantize": real,
        "skip_checks": False,
        **more,
    }
    if wide := _ACTIVATIONS.get(scheme):
        activations = {"num_bits": wide, "symmetric": wide == 16, "granularity": "TENSORWISE", "dtype": "INT"}
        config["activation_tensor_config"] = activations
    algorithm = "float_casting" if bits == 16 else "min_max_uniform_quantize"
    return {"regex": scope, "operation": "*", "algorithm_key": algorithm, "op_config": config}


def _statistics(
    model: TFLiteGraph, ranges: NDArray[np.float32], scheme: str, kernels: Sequence[Sequence[int]]
) -> dict[str, dict[str, NDArray[Any]]]:
    """The ranges by tensor, and those of kernels that must be taken wider than they are.

    A bias has the scale of input times kernel. Where a channel's weights are all zero, or next to, that is so small
    that the bias exceeds 32 bits, and the quantiser would cut it off.
    """
    found = {
        tensor.name: {"min": np.full((1,) * len(tensor.shape), low), "max": np.full((1,) * len(tensor.shape), high)}
        for tensor, (low, high) in zip(model.tensors, ranges, strict=True)
        if not np.isnan(low)
    }
    for (op, kernel), (bits, _) in zip(model.kernels, kernels, strict=True):
        first, last = (2, 3) if op.kind == "TRANSPOSE_CONV" else (0, 2)
        if len(op.inputs) <= last or op.inputs[last] < 0 or bits == 32 or model.tensors[op.inputs[1]] is not kernel:
            continue
        bias = model.tensors[op.inputs[last]].data
        if bias is None:
            continue
        low, high = (float(value) for value in ranges[op.inputs[first]])
        span = max(high, 0.0) - min(low, 0.0), 2 * max(abs(low), abs(high))
        step = max(span[scheme == "int16x8"], 1e-9) / (2.0 ** _ACTIVATIONS[scheme] - 1)
        channel = 3 if op.kind == "DEPTHWISE_CONV_2D" else 0
        others = tuple(axis for axis in range(kernel.data.ndim) if axis != channel)
        widest = np.abs(kernel.data).max(axis=others, keepdims=True)
        least = np.abs(bias).reshape(widest.shape) / (step * _BIAS) * (2 ** (bits - 1) - 1)
        if (widest < least).any():
            wide = np.maximum(widest, least)
            found[kernel.name] = {"min": -wide, "max": wide}
    return found


def _old(content: bytes) -> bool:
    """Whether operators' codes stand only in the one-byte field of older writers, where the quantiser does not look."""
    model = schema.Model.GetRootAs(content)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    return any(code.BuiltinCode() < code.DeprecatedBuiltinCode() for code in codes)


def _packed(content: bytes) -> bytes:
    """The same file as new writers write it, with the buffers that stand behind the flatbuffer put inside it."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(content)
    for buffer in model.buffers:
        buffer.data = None if buffer.data is None else np.frombuffer(buffer.data, np.uint8)
    for code in model.operatorCodes:
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
