"""Patterns of zeros and of shared values in kernels, in NumPy, as they are checked on the file that ships.

Kernels have the layout of Keras, `(..., inputs, outputs)`: `(inputs, outputs)` for a dense layer, `(height, width,
inputs, outputs)` for a convolution. A flatbuffer stores the outputs first (`(out, in)`, OHWI); `read_kernel` converts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.tflite_graph import Tensor, TFLiteGraph, extract_layer_names

KernelMeasure = tuple[list[str], int, float]
"""Of a kernel: the names that its layer may have, its number of weights, and a measured value."""


def read_kernel(tensor: Tensor) -> NDArray[np.generic]:
    """Return a flatbuffer's kernel in the layout of Keras, minus its zero point, so that 0 stands for 0.0."""
    values: NDArray[Any] = np.moveaxis(np.asarray(tensor.data), 0, -1)
    if any(tensor.zero_points):
        values = values.astype(np.int64) - np.asarray(tensor.zero_points)
    return values


def is_n_of_m(kernel: NDArray[np.generic], n: int, m: int) -> bool:
    """Check that at most `n` of every `m` neighbours along the inputs are non-zero; the last group may be shorter."""
    nonzero = np.moveaxis(kernel != 0, -2, -1)
    nonzero = np.pad(nonzero, [(0, 0)] * (nonzero.ndim - 1) + [(0, -nonzero.shape[-1] % m)])
    return bool((nonzero.reshape(-1, m).sum(axis=1) <= n).all())


def count_zero_blocks(kernel: NDArray[np.generic], block: tuple[int, int]) -> int:
    """Return the number of blocks that hold only zeros, in the kernel as a matrix `(inputs, outputs)`.

    Args:
        kernel: The kernel; the rows of a convolution are height x width x inputs.
        block: Rows and columns of a block. Blocks at the edges may be smaller.
    """
    nonzero = (kernel != 0).reshape(-1, kernel.shape[-1])
    (rows, columns), (height, width) = block, nonzero.shape
    nonzero = np.pad(nonzero, ((0, -height % rows), (0, -width % columns)))
    blocks = nonzero.reshape(nonzero.shape[0] // rows, rows, nonzero.shape[1] // columns, columns)
    return int((~blocks.any(axis=(1, 3))).sum())


def count_distinct_values(kernel: NDArray[np.generic], per_channel: bool) -> int:
    """Return the number of different values in a kernel or, `per_channel`, in the output channel that has the most."""
    if not per_channel:
        return len(np.unique(kernel))
    return max(len(np.unique(kernel[..., channel])) for channel in range(kernel.shape[-1]))


def measure_kernels(graph: TFLiteGraph, measure: Callable[[Tensor], float]) -> list[KernelMeasure]:
    """Measure each kernel of a file that can have a pattern: all but the depthwise ones, and embeddings.

    A kernel that operators of one layer share, as those of an unrolled recurrent layer do, is measured once.

    Args:
        graph: The file.
        measure: Returns the value of one kernel.
    """
    kernels: dict[tuple[int, str], tuple[list[str], Tensor]] = {}
    for op, tensor in (*graph.kernels, *graph.embeddings):
        if op.kind == "DEPTHWISE_CONV_2D":
            continue
        output = graph.tensors[op.outputs[0]].name
        layer = "/".join(extract_layer_names(output)[1:]) or output
        kernels.setdefault((id(tensor), layer), (extract_layer_names(graph.title(op, tensor)), tensor))
    return [(names, int(np.prod(tensor.shape)), measure(tensor)) for names, tensor in kernels.values()]


def assign_to_layers(
    sizes: Mapping[str, int], kernels: Iterable[KernelMeasure]
) -> tuple[dict[str, float], list[KernelMeasure]]:
    """Assign the measured kernels of a file to layers, by name and size.

    The converter puts the names of layers into those of kernels, after 8-bit training as `quant_NAME`.

    Args:
        sizes: Number of weights by layer.
        kernels: The measured kernels.

    Returns:
        The value of each layer that a kernel names, and the kernels that are left.
    """
    values, unassigned = {}, list(kernels)
    for name, size in sizes.items():
        matches = [k for k in unassigned if k[1] == size and not {name, f"quant_{name}"}.isdisjoint(k[0])]
        if matches:
            kernel = min(matches, key=lambda k: len(k[0]))  # a kernel that names several layers may belong to another
            unassigned.remove(kernel)
            values[name] = kernel[2]
    return values, unassigned


def find_shortfall(
    required: Mapping[str, float], sizes: Mapping[str, int], kernels: Iterable[KernelMeasure]
) -> tuple[int, float, float] | None:
    """Return the first kernel of a file whose value is below what its layer requires.

    Where a kernel's name does not tell its layer (it may be shared, or written by another converter), the layers and
    kernels of one size are compared in descending order.

    Args:
        required: The value that each layer requires.
        sizes: Number of weights by layer.
        kernels: The measured kernels of the file.

    Returns:
        Size, required value and value in the file (-inf where the kernel is missing); None if nothing is below.
    """
    named, unassigned = assign_to_layers({name: sizes[name] for name in required}, kernels)
    by_size: dict[int, list[float]] = {}
    for _, size, value in unassigned:
        by_size.setdefault(size, []).append(value)
    pairs = [(sizes[name], required[name], actual) for name, actual in named.items()]
    for size in sorted({sizes[name] for name in required}):
        expected = [value for name, value in required.items() if sizes[name] == size and name not in named]
        actual_values = sorted(by_size.get(size, []), reverse=True) + [float("-inf")] * len(expected)
        pairs += [
            (size, value, actual) for value, actual in zip(sorted(expected, reverse=True), actual_values, strict=False)
        ]
    return next((pair for pair in pairs if pair[2] < pair[1]), None)
