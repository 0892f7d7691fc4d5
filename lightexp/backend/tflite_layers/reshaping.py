"""Translate operators that move numbers: reshaping, transposing, padding, slicing, joining, resizing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lightexp.backend.tflite_layers.call import Call, Translate, add_fused_activation
from lightexp.backend.tflite_layers.layer_graph import LayerGraph, Shape, Unsupported, Value

OUTPUT = "OUTPUT"
"""Stands for the model's output among the kinds of an operator's followers."""


def _translate_reshape(call: Call, graph: LayerGraph) -> Value:
    value = call.get_value()
    target = resolve_reshape(call, value.file_shape)
    shape = target[1:] if target[:1] == (1,) else target
    if len(shape) == 1 and not value.is_in_order and set(call.followers) == {"FULLY_CONNECTED"}:
        # Dense layers take their kernels' rows in Keras' order, so that nothing has to be transposed.
        flat = graph.add("Flatten", f"{call.name}_flatten", [value], shape)
        positions = np.arange(shape[0]).reshape(value.shape).transpose(value.order).reshape(-1)
        return replace(flat, has_batch=len(target) > 1, positions=positions)
    return graph.reshape(value, target, call.name)


def resolve_reshape(call: Call, shape: Shape) -> Shape:
    """Return the shape that a RESHAPE makes of a tensor.

    Raises:
        ValueError: If there is none.
    """
    given = call.get_integers(1) if len(call.inputs) > 1 else tuple(call.options["NewShape"])
    count = int(np.prod(shape, dtype=np.int64))
    known = int(np.prod([length for length in given if length != -1], dtype=np.int64))
    if given.count(-1) > 1 or known < 1 or count % known:
        raise ValueError(f"{shape} cannot be reshaped to {given}")
    target = tuple(count // known if length == -1 else length for length in given)
    if min(target, default=1) < 1 or np.prod(target, dtype=np.int64) != count:
        raise ValueError(f"{shape} cannot be reshaped to {given}")
    return target


def _translate_squeeze(call: Call, graph: LayerGraph) -> Value:
    value = call.get_value()
    return graph.reshape(value, resolve_squeeze(call, value.file_shape), call.name)


def resolve_squeeze(call: Call, shape: Shape) -> Shape:
    """Return the shape that a SQUEEZE makes of a tensor; raises ValueError if it removes an axis longer than 1."""
    dims = {dim % len(shape) for dim in call.options["SqueezeDims"] or ()}
    dims = dims or {axis for axis, length in enumerate(shape) if length == 1 and axis}
    if any(shape[dim] != 1 for dim in dims):
        raise ValueError(f"axes {sorted(dims)} of {shape} cannot be removed")
    return tuple(length for axis, length in enumerate(shape) if axis not in dims)


def _translate_expand_dims(call: Call, graph: LayerGraph) -> Value:
    value = call.get_value()
    [axis] = call.get_integers(1)
    shape = list(value.file_shape)
    if not -len(shape) - 1 <= axis <= len(shape):
        raise ValueError(f"axis {axis} of a tensor of rank {len(shape)}")
    shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, 1)
    return graph.reshape(value, tuple(shape), call.name)


def _translate_transpose(call: Call, graph: LayerGraph) -> Value:
    """Note the new order of axes; a layer is added only where a later operator needs it."""
    value, axes = call.get_value(), call.get_integers(1)
    if sorted(axes) != list(range(len(value.file_shape))):
        raise ValueError(f"axes {axes} of a tensor of rank {len(value.file_shape)}")
    if value.has_batch and axes[0] != 0:
        value = graph.straighten(value, call.name)
        shape = value.file_shape
        value = graph.add("Reshape", f"{call.name}_reshape", [value], shape, target_shape=shape)
        value = replace(value, has_batch=False)
    if value.has_batch:
        return replace(value, order=tuple(value.order[axis - 1] for axis in axes[1:]))
    return replace(value, order=tuple(value.order[axis] for axis in axes))


def _translate_pad(call: Call, graph: LayerGraph) -> Value:
    value, table = call.get_value(), call.get_constant(1)
    if table.shape != (len(value.file_shape), 2) or table.dtype.kind not in "iu" or table.min() < 0:
        raise ValueError(f"a table of padding of shape {table.shape} for {value.file_shape}")
    rows = [tuple(map(int, row)) for row in table]
    if value.has_batch and rows.pop(0) != (0, 0):
        raise Unsupported("pads the batch")
    padding = [rows[value.order.index(axis)] for axis in range(len(rows))]
    shape = tuple(before + n + after for n, (before, after) in zip(value.shape, padding, strict=True))
    fill = _read_fill(call, graph, value) if call.kind == "PADV2" else 0.0
    is_zero = call.kind != "MIRROR_PAD" and fill == 0
    if is_zero and len(shape) in (2, 3) and padding[-1] == (0, 0):
        spatial: Any = padding[:-1] if len(shape) == 3 else padding[0]
        output = graph.add(f"ZeroPadding{len(shape) - 1}D", call.name, [value], shape, padding=spatial)
    else:
        modes = ("REFLECT", "SYMMETRIC")
        mode = {"mode": modes[call.options["Mode"]]} if call.kind == "MIRROR_PAD" else {"constant_values": fill}
        output = graph.add_function("pad", call.name, value, shape, paddings=[[0, 0], *padding], **mode)
    return replace(output, order=value.order, has_batch=value.has_batch)


def _read_fill(call: Call, graph: LayerGraph, value: Value) -> float:
    """Return the number that a PADV2 fills with; raises Unsupported for NaN and infinity."""
    fill = float(call.get_constant(2).reshape(-1)[0])
    lowest = float(np.finfo(np.float32).min)
    if fill <= lowest and set(call.followers) == {"MAX_POOL_2D"} and graph.is_nonnegative(value):
        return 0.0  # gives the same maxima, and does not spoil the range of integers
    fill = max(fill, lowest)
    if not np.isfinite(fill):
        raise Unsupported(f"pads with {fill}")
    return fill


def _translate_strided_slice(call: Call, graph: LayerGraph) -> Value:
    value = call.get_value()
    parts, removed = resolve_strided_slice(call, value.file_shape)
    return _add_slice(call, graph, parts, removed)


def resolve_strided_slice(call: Call, shape: Shape) -> tuple[list[range], set[int]]:
    """Return what a STRIDED_SLICE takes of each axis of a tensor, and the axes that it removes.

    Raises:
        ValueError: If it does not fit the tensor.
        Unsupported: If it adds axes, or uses an ellipsis.
    """
    if call.options["EllipsisMask"] or call.options["NewAxisMask"]:
        raise Unsupported("slices with an ellipsis or new axes")
    begins, ends, steps = (call.get_integers(index) for index in (1, 2, 3))
    if not len(begins) == len(ends) == len(steps) <= len(shape) or 0 in steps:
        raise ValueError(f"slices {begins} to {ends} by {steps} of {shape}")
    parts, removed = [range(length) for length in shape], set()
    for axis, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=True)):
        mask = 1 << axis
        if call.options["ShrinkAxisMask"] & mask:
            removed.add(axis)
            parts[axis] = parts[axis][slice(begin, begin + 1 or None)]
        else:
            first = None if call.options["BeginMask"] & mask else begin
            last = None if call.options["EndMask"] & mask else end
            parts[axis] = parts[axis][slice(first, last, step)]
    if not all(parts):
        raise ValueError(f"slices {begins} to {ends} by {steps} of {shape}, which is empty")
    return parts, removed


def _translate_slice(call: Call, graph: LayerGraph) -> Value:
    shape, begins, sizes = call.get_value().file_shape, call.get_integers(1), call.get_integers(2)
    if not len(begins) == len(sizes) == len(shape):
        raise ValueError(f"slices {sizes} from {begins} of {shape}")
    parts = [
        range(begin, length if size == -1 else begin + size)
        for begin, size, length in zip(begins, sizes, shape, strict=True)
    ]
    if any(part.start < 0 or part.stop > n or not part for part, n in zip(parts, shape, strict=True)):
        raise ValueError(f"slices {sizes} from {begins} of {shape}")
    return _add_slice(call, graph, parts, set())


def _translate_split(call: Call, graph: LayerGraph) -> list[Value]:
    has_sizes = call.kind == "SPLIT_V"
    value = call.get_value(0 if has_sizes else 1)
    [axis] = call.get_integers(2 if has_sizes else 0)
    value.find_axis(axis)
    shape = value.file_shape
    axis %= len(shape)
    sizes = call.get_integers(1) if has_sizes else (shape[axis] // call.outputs,) * call.outputs
    if len(sizes) != call.outputs or sum(sizes) != shape[axis] or min(sizes) < 1:
        raise ValueError(f"axis {axis} of {shape} cannot be split in {call.outputs}")
    call = replace(call, inputs=(value,))
    outputs, start = [], 0
    for size in sizes:
        parts = [range(length) for length in shape]
        parts[axis] = range(start, start + size)
        outputs.append(_add_slice(call, graph, parts, set()))
        start += size
    return outputs


def _add_slice(call: Call, graph: LayerGraph, parts: list[range], removed: set[int]) -> Value:
    """Take parts of the axes of a call's first input, as the file has them; then remove axes of one position."""
    value = call.get_value()
    shape = value.file_shape
    if value.has_batch:
        if parts[0] != range(1) or 0 in removed:
            raise Unsupported("takes a part of the batch")
        parts, removed = parts[1:], {axis - 1 for axis in removed}
    inner = shape[value.has_batch :]
    ranges = [parts[value.order.index(axis)] for axis in range(len(inner))]
    output = value
    if any(part != range(length) for part, length in zip(parts, inner, strict=True)):
        output = _add_crop(call, graph, value, ranges)
    output = replace(output, order=value.order, has_batch=value.has_batch)
    if not removed:
        return output
    batch = (1,) if value.has_batch else ()
    target = (*batch, *(len(part) for axis, part in enumerate(parts) if axis not in removed))
    return graph.reshape(output, target, call.name)


def _add_crop(call: Call, graph: LayerGraph, value: Value, ranges: list[range]) -> Value:
    shape = tuple(map(len, ranges))
    ends = [(part[0], length - part[-1] - 1) for part, length in zip(ranges, value.shape, strict=True)]
    if len(shape) == 3 and ends[-1] == (0, 0) and all(part.step == 1 for part in ranges):
        return graph.add("Cropping2D", call.name, [value], shape, cropping=ends[:-1])
    begin, end, strides = [0], [0], [1]
    end_mask = 1
    for axis, part in enumerate(ranges, start=1):
        begin.append(part.start)
        end.append(max(part.stop, 0))
        strides.append(part.step)
        end_mask |= (part.stop < 0) << axis  # a step backwards that ends with the first position
    arguments = {"begin": begin, "end": end, "strides": strides, "begin_mask": 1, "end_mask": end_mask}
    return graph.add_function("strided_slice", call.name, value, shape, **arguments)


def _translate_concatenation(call: Call, graph: LayerGraph) -> Value:
    values = [call.get_value(index) for index in range(len(call.inputs))]
    first = values[0]
    if any(value.order != first.order or value.has_batch != first.has_batch for value in values):
        values = [graph.straighten(value, call.name) for value in values]
    first = values[0]
    axis = first.find_axis(call.options["Axis"])
    if any(len(v.shape) != len(first.shape) or v.has_batch != first.has_batch for v in values):
        raise ValueError(f"values of shapes {[v.file_shape for v in values]} cannot be joined")
    rests = {(*value.shape[:axis], *value.shape[axis + 1 :]) for value in values}
    if len(rests) != 1:
        raise ValueError(f"values of shapes {[v.file_shape for v in values]} cannot be joined")
    length = sum(value.shape[axis] for value in values)
    shape = (*first.shape[:axis], length, *first.shape[axis + 1 :])
    output = first
    if len(values) > 1:
        output = graph.add("Concatenate", call.name, values, shape, axis=axis + 1)
    return add_fused_activation(call, graph, replace(output, order=first.order, has_batch=first.has_batch))


def _translate_resize(call: Call, graph: LayerGraph) -> Value:
    image = graph.require_images(call.get_value(), call.name)
    size = call.get_integers(1)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"a size of {size}")
    shape = (*size, image.shape[-1])
    is_nearest = call.kind == "RESIZE_NEAREST_NEIGHBOR"
    corners, half = bool(call.options["AlignCorners"]), bool(call.options["HalfPixelCenters"])
    factors = [new // old for new, old in zip(size, image.shape, strict=False)]
    is_multiple = all(f * old == new for f, old, new in zip(factors, image.shape, size, strict=False))
    if is_multiple and not corners and (half or is_nearest):
        interpolation = "nearest" if is_nearest else "bilinear"
        return graph.add("UpSampling2D", call.name, [image], shape, size=factors, interpolation=interpolation)
    function = "compat.v1.image.resize_nearest_neighbor" if is_nearest else "compat.v1.image.resize_bilinear"
    arguments = {"size": size, "align_corners": corners, "half_pixel_centers": half}
    return graph.add_function(function, call.name, image, shape, **arguments)


TRANSLATIONS: dict[str, Translate] = {
    "CONCATENATION": _translate_concatenation,
    "EXPAND_DIMS": _translate_expand_dims,
    "MIRROR_PAD": _translate_pad,
    "PAD": _translate_pad,
    "PADV2": _translate_pad,
    "RESHAPE": _translate_reshape,
    "RESIZE_BILINEAR": _translate_resize,
    "RESIZE_NEAREST_NEIGHBOR": _translate_resize,
    "SLICE": _translate_slice,
    "SPLIT": _translate_split,
    "SPLIT_V": _translate_split,
    "SQUEEZE": _translate_squeeze,
    "STRIDED_SLICE": _translate_strided_slice,
    "TRANSPOSE": _translate_transpose,
}
