"""Patterns of zeros and of shared values in kernels, as NumPy: what the file that ships is checked for.

Kernels are laid out as Keras does, `(..., inputs, outputs)`: a dense one `(inputs, outputs)`, a convolution
`(height, width, inputs, outputs)`. A flatbuffer keeps its outputs first (`(out, in)`, OHWI); `real` turns them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.tflite_graph import Tensor, TFLiteGraph, extract_layer_names

Found = tuple[list[str], int, float]
"""Of a kernel: the names that its layer may have, its size, and how much of something it has."""


def read_kernel(tensor: Tensor) -> NDArray[np.generic]:
    """A flatbuffer's kernel in Keras' layout, its zero point taken off: 0 stands for 0.0."""
    values: NDArray[Any] = np.moveaxis(np.asarray(tensor.data), 0, -1)
    if any(tensor.zero_points):
        values = values.astype(np.int64) - np.asarray(tensor.zero_points)
    return values


def is_n_of_m(kernel: NDArray[np.generic], n: int, m: int) -> bool:
    """Whether at most `n` of every `m` neighbours along the inputs are not zero; a shorter last group counts too."""
    used = np.moveaxis(kernel != 0, -2, -1)
    used = np.pad(used, [(0, 0)] * (used.ndim - 1) + [(0, -used.shape[-1] % m)])
    return bool((used.reshape(-1, m).sum(axis=1) <= n).all())


def count_zero_blocks(kernel: NDArray[np.generic], block: tuple[int, int]) -> int:
    """How many blocks of `(rows, columns)` are all zero, of the kernel as a matrix `(inputs, outputs)`.

    A convolution's rows are height x width x inputs. Blocks at the edges may be smaller.
    """
    used = (kernel != 0).reshape(-1, kernel.shape[-1])
    (rows, columns), (high, wide) = block, used.shape
    used = np.pad(used, ((0, -high % rows), (0, -wide % columns)))
    split = used.reshape(used.shape[0] // rows, rows, used.shape[1] // columns, columns)
    return int((~split.any(axis=(1, 3))).sum())


def count_distinct_values(kernel: NDArray[np.generic], per_channel: bool) -> int:
    """How many different values a kernel has, or the output channel that has the most."""
    if not per_channel:
        return len(np.unique(kernel))
    return max(len(np.unique(kernel[..., channel])) for channel in range(kernel.shape[-1]))


def measure_kernels(model: TFLiteGraph, of: Callable[[Tensor], float]) -> list[Found]:
    """How much of something is in each kernel of a file that may bear a pattern: all but the depthwise ones."""
    return [
        (extract_layer_names(model.title(op, tensor)), int(np.prod(tensor.shape)), of(tensor))
        for op, tensor in model.kernels
        if op.kind != "DEPTHWISE_CONV_2D"
    ]


def assign_to_layers(sizes: Mapping[str, int], found: Iterable[Found]) -> tuple[dict[str, float], list[Found]]:
    """What the kernel of each layer has that one of its size names; and the kernels that are left.

    The converter puts layers' names into those of kernels, after 8-bit training as `quant_NAME`.
    """
    values, left = {}, list(found)
    for name, size in sizes.items():
        its = [k for k in left if k[1] == size and not {name, f"quant_{name}"}.isdisjoint(k[0])]
        if its:
            kernel = min(its, key=lambda k: len(k[0]))  # of a name that tells several layers it may be another's
            left.remove(kernel)
            values[name] = kernel[2]
    return values, left


def find_shortfall(
    wanted: Mapping[str, float], sizes: Mapping[str, int], found: Iterable[Found]
) -> tuple[int, float, float] | None:
    """Where the kernels of a file have less of something than the layers were given.

    Where a kernel's name tells no layer (it may be shared, or another converter's), layers and kernels of one size are
    compared as sets, the most first.

    Args:
        wanted: What each layer was given.
        sizes: Number of each layer's weights.
        found: What each kernel of the file has.

    Returns:
        Size, what was given and what is there, of the first that falls short; None if none does.
    """
    named, left = assign_to_layers({name: sizes[name] for name in wanted}, found)
    there: dict[int, list[float]] = {}
    for _, size, value in left:
        there.setdefault(size, []).append(value)
    pairs = [(sizes[name], wanted[name], has) for name, has in named.items()]
    for size in sorted({sizes[name] for name in wanted}):
        given = sorted((value for n, value in wanted.items() if sizes[n] == size and n not in named), reverse=True)
        got = sorted(there.get(size, []), reverse=True)
        got += [float("-inf")] * len(given)
        pairs += [(size, value, has) for value, has in zip(given, got, strict=False)]
    return next((pair for pair in pairs if pair[2] < pair[1]), None)
