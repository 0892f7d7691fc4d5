"""Quantise a float `.tflite` file with litert-quantizer, without TensorFlow."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from lightexp.backend import embedded_format, flatbuffer
from lightexp.backend.stderr import silence_stderr
from lightexp.core.errors import BadInput
from lightexp.core.grids import find_channel_steps
from lightexp.core.tflite_graph import Operator, Tensor, TFLiteGraph

_ACTIVATION_BITS = {"int8": 8, "int16x8": 16}
_MAX_BIAS = 2.0**30  # leaves room in int32 for the sum that the bias is added to
_MIN_SPAN = 1e-9  # of a constant activation, so that its scale is not zero
_CHANNEL_AXIS = {"DEPTHWISE_CONV_2D": 3}  # 0 for all other operators


def quantize(
    tflite: Path,
    ranges: NDArray[np.float32],
    scheme: str,
    bits: int,
    kernels: Sequence[Sequence[int]],
    io: str,
) -> NDArray[np.uint8]:
    """Return a post-training quantised copy of a float file.

    Args:
        tflite: The float file.
        ranges: Ranges of its tensors, `(tensors, 2)`, as `litert.collect_ranges` returns them; used by `int8` and
            `int16x8`.
        scheme: `default` (what TensorFlow's converter does by default), `float16`, `dynamic`, `weight_only`, `int8`
            or `int16x8`.
        bits: Width of weights that are not kernels, such as an embedding's.
        kernels: Of each kernel of the file, in order: width in bits (2, 4, 8, or 32 for float), block size (0: one
            scale per channel) and, where it is on a grid whose steps are to be its scales, True.
        io: Type of inputs and outputs, used by `int8` and `int16x8`: `float`, `integer`, or `uint8` with `int8`.

    Returns:
        The file's bytes, as embedded devices need them; see `embedded_format`.

    Raises:
        BadInput: If the quantiser cannot process the file; includes its message.
    """
    from litert_quantizer import quantizer  # takes a second to import

    model = flatbuffer.read_graph(tflite)
    statistics = {}
    if scheme in _ACTIVATION_BITS:
        statistics = _compute_tensor_statistics(model, ranges, scheme, kernels)
    if any(any(on_grid) for _, _, *on_grid in kernels):
        statistics |= _compute_grid_statistics(model, kernels)
    try:
        with silence_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = tflite.read_bytes()
            if _has_old_operator_codes(source):
                source = embedded_format.pack(embedded_format.read_model(source))
            work = quantizer.Quantizer(source, _build_recipe(model, scheme, bits, kernels, io != "float"))
            content = bytes(work.quantize(statistics or None, enable_progress_report=False).quantized_model)
            content = embedded_format.make_embeddable(content, unsigned_io=io == "uint8")
    except Exception as error:  # the quantiser does not document what it raises for files of other writers
        message = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{tflite} cannot be quantised ({scheme}): {message[:200]}. Try another scheme.") from None
    return np.frombuffer(content, np.uint8)


def _build_recipe(
    model: TFLiteGraph, scheme: str, bits: int, kernels: Sequence[Sequence[int]], integer_io: bool
) -> list[dict[str, Any]]:
    """Return the quantiser's rules for operators; the last rule that matches an operator applies."""
    if scheme == "default":
        return [_build_rule(".*", scheme, 8, 0, min_weight_elements=1024)]
    if scheme == "float16":
        return [_build_rule(".*", scheme, 16, 0)]
    common_bits = 8 if scheme in _ACTIVATION_BITS else bits
    rules = [_build_rule(".*", scheme, common_bits, 0)]
    for (op, _), (kernel_bits, block, *_) in zip(model.kernels, kernels, strict=True):
        if (kernel_bits, block) == (common_bits, 0):
            continue
        scope = "".join(f"{model.tensors[index].name};" for index in op.outputs)
        operation = "CONV_2D_TRANSPOSE" if op.kind == "TRANSPOSE_CONV" else op.kind
        rules.append({**_build_rule(f"^{re.escape(scope)}$", scheme, kernel_bits, block), "operation": operation})
    if scheme in _ACTIVATION_BITS and not integer_io:
        rules += [{**_build_rule(".*", scheme, 32, 0), "operation": operation} for operation in ("INPUT", "OUTPUT")]
    return rules


def _build_rule(scope: str, scheme: str, bits: int, block: int, **options: Any) -> dict[str, Any]:
    if bits == 32:
        return {"regex": scope, "operation": "*", "algorithm_key": "no_quantize", "op_config": {}}
    granularity = "TENSORWISE" if bits == 16 else "CHANNELWISE"
    if block:
        granularity = f"BLOCKWISE_{block}"
    weights = {
        "num_bits": bits,
        "symmetric": True,  # so that 0 stays 0
        "granularity": granularity,
        "dtype": "FLOAT" if bits == 16 else "INT",
    }
    dequantizes_weights = scheme in ("float16", "weight_only")
    config = {
        "weight_tensor_config": weights,
        "compute_precision": "FLOAT" if dequantizes_weights else "INTEGER",
        "explicit_dequantize": dequantizes_weights,
        "skip_checks": False,
        **options,
    }
    if activation_bits := _ACTIVATION_BITS.get(scheme):
        config["activation_tensor_config"] = {
            "num_bits": activation_bits,
            "symmetric": activation_bits == 16,
            "granularity": "TENSORWISE",
            "dtype": "INT",
        }
    algorithm = "float_casting" if bits == 16 else "min_max_uniform_quantize"
    return {"regex": scope, "operation": "*", "algorithm_key": algorithm, "op_config": config}


def _compute_tensor_statistics(
    model: TFLiteGraph, ranges: NDArray[np.float32], scheme: str, kernels: Sequence[Sequence[int]]
) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the ranges of activations by tensor name, and widened ranges of kernels where biases need them."""
    statistics = {
        tensor.name: {"min": np.full((1,) * len(tensor.shape), low), "max": np.full((1,) * len(tensor.shape), high)}
        for tensor, (low, high) in zip(model.tensors, ranges, strict=True)
        if not np.isnan(low)
    }
    for (op, kernel), (bits, *_) in zip(model.kernels, kernels, strict=True):
        if bits == 32:
            continue
        widened = _widen_kernel_range(model, op, kernel, ranges, scheme, bits)
        if widened is not None:
            statistics[kernel.name] = {"min": -widened, "max": widened}
    return statistics


def _compute_grid_statistics(
    model: TFLiteGraph, kernels: Sequence[Sequence[int]]
) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the ranges of kernels on a grid, by tensor name, whose scales are the steps of the grid.

    A kernel that is on no grid, or has more levels than the bits, gets no range.
    """
    statistics = {}
    for (op, kernel), (bits, _, *on_grid) in zip(model.kernels, kernels, strict=True):
        if bits == 32 or not any(on_grid) or kernel.data is None:
            continue
        channel, levels = _CHANNEL_AXIS.get(op.kind, 0), 2 ** (bits - 1) - 1
        steps = find_channel_steps(np.moveaxis(np.asarray(kernel.data), channel, -1), levels)
        if steps is not None:
            shape = [-1 if axis == channel else 1 for axis in range(kernel.data.ndim)]
            maxima = (steps * levels).reshape(shape)
            statistics[kernel.name] = {"min": -maxima, "max": maxima}
    return statistics


def _widen_kernel_range(
    model: TFLiteGraph, op: Operator, kernel: Tensor, ranges: NDArray[np.float32], scheme: str, bits: int
) -> NDArray[np.float32] | None:
    """Return larger absolute maxima for the channels of a kernel, or None if its own will do.

    A bias has the scale of input times kernel. Where a channel's weights are zero, or nearly, that scale is so small
    that the bias exceeds 32 bits, and the quantiser would clip it.
    """
    input_place, bias_place = (2, 3) if op.kind == "TRANSPOSE_CONV" else (0, 2)
    if len(op.inputs) <= bias_place or op.inputs[bias_place] < 0 or model.tensors[op.inputs[1]] is not kernel:
        return None
    bias = model.tensors[op.inputs[bias_place]].data
    if bias is None or kernel.data is None:
        return None
    low, high = (float(value) for value in ranges[op.inputs[input_place]])
    is_symmetric = scheme == "int16x8"
    span = 2 * max(abs(low), abs(high)) if is_symmetric else max(high, 0.0) - min(low, 0.0)
    step = max(span, _MIN_SPAN) / (2.0 ** _ACTIVATION_BITS[scheme] - 1)
    channel = _CHANNEL_AXIS.get(op.kind, 0)
    other_axes = tuple(axis for axis in range(kernel.data.ndim) if axis != channel)
    own: NDArray[np.float32] = np.abs(kernel.data).max(axis=other_axes, keepdims=True)
    needed = np.abs(bias).reshape(own.shape) / (step * _MAX_BIAS) * (2 ** (bits - 1) - 1)
    return np.maximum(own, needed) if (own < needed).any() else None


def _has_old_operator_codes(content: bytes) -> bool:
    """Return whether the file has operator codes only in the one-byte field of older writers.

    The quantiser reads the newer field alone.
    """
    model = schema.Model.GetRootAs(content)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    return any(code.BuiltinCode() < code.DeprecatedBuiltinCode() for code in codes)
