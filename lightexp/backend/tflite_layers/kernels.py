"""Translate operators with kernels: convolutions, dense layers; and pooling."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from lightexp.backend.tflite_layers.call import Call, Translate, add_fused_activation, split_relu
from lightexp.backend.tflite_layers.layer_graph import Array, LayerGraph, Unsupported, Value
from lightexp.core.tflite_graph import Options

_PADDINGS = ("same", "valid")


def _translate_convolution(call: Call, graph: LayerGraph) -> Value:
    kernel = _get_kernel(call, 4)  # (filters, height, width, channels of a group)
    image = graph.require_images(call.get_value(), call.name)
    filters, channels = kernel.shape[0], kernel.shape[-1]
    groups, rest = divmod(image.shape[-1], channels)
    if rest or not groups or filters % groups:
        raise ValueError(f"a kernel of shape {kernel.shape} for {image.shape[-1]} channels")
    return _add_window_layer(call, graph, image, kernel.transpose(1, 2, 3, 0), groups)


def _translate_depthwise(call: Call, graph: LayerGraph) -> Value:
    kernel = _get_kernel(call, 4)  # (1, height, width, channels * multiplier)
    image = graph.require_images(call.get_value(), call.name)
    one, height, width, filters = kernel.shape
    channels = image.shape[-1]
    if one != 1 or filters % channels:
        raise ValueError(f"a kernel of shape {kernel.shape} for {channels} channels")
    strides = (call.options["StrideH"], call.options["StrideW"])
    if channels == 1 or strides[0] != strides[1]:  # TensorFlow's depthwise convolution takes no unequal strides
        grouped = kernel.reshape(height, width, 1, filters)
        return _add_window_layer(call, graph, image, grouped, channels)
    depthwise = kernel.reshape(height, width, channels, filters // channels)
    return _add_window_layer(call, graph, image, depthwise, None)


def _add_window_layer(call: Call, graph: LayerGraph, image: Value, kernel: Array, groups: int | None) -> Value:
    """Add a Conv2D or, where `groups` is None, a DepthwiseConv2D."""
    strides, padding = _read_strides(call.options)
    dilation = (call.options["DilationHFactor"] or 1, call.options["DilationWFactor"] or 1)
    if min(dilation) < 1 or (max(dilation) > 1 and max(strides) > 1):
        raise Unsupported(f"has the strides {strides} and the dilation {dilation}, which Keras does not combine")
    window = [(size - 1) * step + 1 for size, step in zip(kernel.shape[:2], dilation, strict=True)]
    filters = kernel.shape[-1] if groups else kernel.shape[-1] * kernel.shape[-2]
    shape = (*_slide(image.shape[:2], window, strides, padding), filters)
    bias = _find_bias(call, 2, filters)
    activation, call = split_relu(call)
    settings = {
        "kernel_size": kernel.shape[:2],
        "strides": strides,
        "padding": padding,
        "dilation_rate": dilation,
        "use_bias": bool(bias),
        "activation": activation,
    }
    if groups:
        settings |= {"filters": filters, "groups": groups}
    else:
        settings |= {"depth_multiplier": kernel.shape[-1]}
    kind = "Conv2D" if groups else "DepthwiseConv2D"
    output = graph.add(kind, call.name, [image], shape, [kernel, *bias], **settings)
    return add_fused_activation(call, graph, output)


def _translate_transposed(call: Call, graph: LayerGraph) -> Value:
    kernel = _get_kernel(call, 4)  # (filters, height, width, channels)
    image = graph.require_images(call.get_value(2), call.name)
    if kernel.shape[-1] != image.shape[-1]:
        raise ValueError(f"a kernel of shape {kernel.shape} for {image.shape[-1]} channels")
    target = call.get_integers(0)
    if len(target) != 4 or target[-1] != kernel.shape[0]:
        raise ValueError(f"a result of shape {target} of a kernel of shape {kernel.shape}")
    strides, padding = _read_strides(call.options)
    extra = []
    for length, longer, size, stride in zip(image.shape, target[1:3], kernel.shape[1:3], strides, strict=False):
        inner = (length - 1) * stride + size - (2 * (size // 2) if padding == "same" else 0)
        if not 0 <= longer - inner < stride:
            raise Unsupported(f"has an output of shape {target}, which does not follow from its input {image.shape}")
        extra.append(longer - inner)
    bias = _find_bias(call, 3, target[-1])
    activation, call = split_relu(call)
    output = graph.add(
        "Conv2DTranspose",
        call.name,
        [image],
        target[1:],
        [kernel.transpose(1, 2, 0, 3), *bias],
        filters=target[-1],
        kernel_size=kernel.shape[1:3],
        strides=strides,
        padding=padding,
        output_padding=extra if any(extra) else None,
        use_bias=bool(bias),
        activation=activation,
    )
    return add_fused_activation(call, graph, output)


def _translate_dense(call: Call, graph: LayerGraph) -> Value:
    kernel = _get_kernel(call, 2)  # (units, inputs)
    if call.options["WeightsFormat"]:
        raise Unsupported("has its weights in an order for one processor")
    return _add_dense(call, graph, kernel.T, bool(call.options["KeepNumDims"]))


def _translate_matrix_product(call: Call, graph: LayerGraph) -> Value:
    kernel = _get_kernel(call, 2)
    if call.options["AdjX"]:
        raise Unsupported("transposes its input")
    call = replace(call, inputs=call.inputs[:2], options={"FusedActivationFunction": 0})
    return _add_dense(call, graph, kernel.T if call.options.get("AdjY") else kernel, keeps_axes=True)


def _add_dense(call: Call, graph: LayerGraph, kernel: Array, keeps_axes: bool) -> Value:
    """Add a Dense layer with a kernel of shape (inputs, units)."""
    value, (inputs, units) = call.get_value(), kernel.shape
    if value.positions is not None:
        order = np.empty(len(value.positions), np.intp)
        order[value.positions] = np.arange(len(order))
        kernel = kernel[order]
        value = replace(value, positions=None)
    value = graph.straighten(value, call.name)
    if not keeps_axes and len(value.file_shape) != 2:
        rows, rest = divmod(math.prod(value.shape), inputs)
        if rest:
            raise ValueError(f"a kernel for {inputs} inputs and a value of shape {value.file_shape}")
        value = graph.reshape(value, (rows, inputs), call.name)
    if not value.shape or value.shape[-1] != inputs:
        raise ValueError(f"a kernel for {inputs} inputs and a value of shape {value.file_shape}")
    bias = _find_bias(call, 2, units)
    activation, call = split_relu(call)
    settings = {"units": units, "use_bias": bool(bias), "activation": activation}
    output = graph.add("Dense", call.name, [value], (*value.shape[:-1], units), [kernel, *bias], **settings)
    return add_fused_activation(call, graph, replace(output, has_batch=value.has_batch))


def _translate_pooling(call: Call, graph: LayerGraph) -> Value:
    image = graph.require_images(call.get_value(), call.name)
    strides, padding = _read_strides(call.options)
    window = (call.options["FilterHeight"], call.options["FilterWidth"])
    shape = (*_slide(image.shape[:2], window, strides, padding), image.shape[-1])
    kind = "MaxPooling2D" if call.kind == "MAX_POOL_2D" else "AveragePooling2D"
    output = graph.add(kind, call.name, [image], shape, pool_size=window, strides=strides, padding=padding)
    return add_fused_activation(call, graph, output)


def _get_kernel(call: Call, rank: int) -> Array:
    kernel = call.get_constant(1)
    if kernel.dtype != np.float32:
        raise Unsupported(f"has a kernel of {kernel.dtype}, which is quantised")
    if kernel.ndim != rank or 0 in kernel.shape:
        raise ValueError(f"a {call.kind} with a kernel of shape {kernel.shape}")
    return kernel


def _find_bias(call: Call, index: int, units: int) -> list[Array]:
    bias = call.find_constant(index)
    if bias is None:
        return []
    if bias.dtype != np.float32:
        raise Unsupported(f"has a bias of {bias.dtype}, which is quantised")
    if bias.shape != (units,):
        raise ValueError(f"a bias of shape {bias.shape} for {units} outputs")
    return [bias]


def _read_strides(options: Options) -> tuple[tuple[int, int], str]:
    strides = (options["StrideH"], options["StrideW"])
    if min(strides) < 1 or options["Padding"] not in (0, 1):
        raise ValueError(f"strides {strides} and padding {options['Padding']}")
    return strides, _PADDINGS[options["Padding"]]


def _slide(
    lengths: tuple[int, ...], window: list[int] | tuple[int, ...], strides: tuple[int, int], padding: str
) -> tuple[int, ...]:
    """Return the height and width of a result; raises ValueError if the window is empty or too large."""
    if min(window) < 1:
        raise ValueError(f"a window of {tuple(window)}")
    trimmed = lengths if padding == "same" else [n - size + 1 for n, size in zip(lengths, window, strict=True)]
    if min(trimmed) < 1:
        raise ValueError(f"a window of {tuple(window)} on {lengths}")
    return tuple(-(-n // stride) for n, stride in zip(trimmed, strides, strict=True))


TRANSLATIONS: dict[str, Translate] = {
    "AVERAGE_POOL_2D": _translate_pooling,
    "BATCH_MATMUL": _translate_matrix_product,
    "CONV_2D": _translate_convolution,
    "DEPTHWISE_CONV_2D": _translate_depthwise,
    "FULLY_CONNECTED": _translate_dense,
    "MAX_POOL_2D": _translate_pooling,
    "TRANSPOSE_CONV": _translate_transposed,
}
