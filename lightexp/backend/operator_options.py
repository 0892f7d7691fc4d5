"""Read the options of a `.tflite` file's operators: strides, padding, axes, fused activations."""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from lightexp.core.tflite_graph import Options

_FUSED = "FusedActivationFunction"
_POOL = ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", _FUSED)
_CONV = ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", _FUSED)
_RESIZE = ("AlignCorners", "HalfPixelCenters")
_FIELDS = {
    "ADD": ("AddOptions", (_FUSED,)),
    "AVERAGE_POOL_2D": ("Pool2DOptions", _POOL),
    "BATCH_MATMUL": ("BatchMatMulOptions", ("AdjX", "AdjY")),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", _FUSED)),
    "CONV_2D": ("Conv2DOptions", _CONV),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", _CONV),
    "DIV": ("DivOptions", (_FUSED,)),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("WeightsFormat", "KeepNumDims", _FUSED)),
    "GATHER": ("GatherOptions", ("Axis", "BatchDims")),
    "GELU": ("GeluOptions", ("Approximate",)),
    "LEAKY_RELU": ("LeakyReluOptions", ("Alpha",)),
    "MAX_POOL_2D": ("Pool2DOptions", _POOL),
    "MEAN": ("ReducerOptions", ("KeepDims",)),
    "MIRROR_PAD": ("MirrorPadOptions", ("Mode",)),
    "MUL": ("MulOptions", (_FUSED,)),
    "PACK": ("PackOptions", ("Axis",)),
    "REDUCE_MAX": ("ReducerOptions", ("KeepDims",)),
    "REDUCE_PROD": ("ReducerOptions", ("KeepDims",)),
    "RESHAPE": ("ReshapeOptions", ("NewShape",)),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", _RESIZE),
    "RESIZE_NEAREST_NEIGHBOR": ("ResizeNearestNeighborOptions", _RESIZE),
    "SOFTMAX": ("SoftmaxOptions", ("Beta",)),
    "SQUEEZE": ("SqueezeOptions", ("SqueezeDims",)),
    "STRIDED_SLICE": (
        "StridedSliceOptions",
        ("BeginMask", "EndMask", "EllipsisMask", "NewAxisMask", "ShrinkAxisMask"),
    ),
    "SUB": ("SubOptions", (_FUSED,)),
    "SUM": ("ReducerOptions", ("KeepDims",)),
    "TRANSPOSE_CONV": ("TransposeConvOptions", ("Padding", "StrideH", "StrideW", _FUSED)),
}


def read_options(operator: Any, kind: str) -> Options:
    """Return the options of an operator.

    Args:
        operator: The operator's table in the file.
        kind: Its builtin name; kinds whose options lightexp does not use have none.

    Raises:
        ValueError: If it has the options of another kind.
    """
    if kind not in _FIELDS:
        return {}
    table_name, fields = _FIELDS[kind]
    if operator.BuiltinOptionsType() != getattr(schema.BuiltinOptions, table_name):
        if operator.BuiltinOptionsType():
            raise ValueError(f"a {kind} has the options of another operator")
        return dict.fromkeys(fields, 0)
    table = getattr(schema, table_name)()
    encoded = operator.BuiltinOptions()
    table.Init(encoded.Bytes, encoded.Pos)
    return {field: _read_field(table, field) for field in fields}


def _read_field(table: Any, field: str) -> Any:
    if not hasattr(table, f"{field}IsNone"):
        return getattr(table, field)()
    return () if getattr(table, f"{field}IsNone")() else tuple(getattr(table, f"{field}AsNumpy")().tolist())
