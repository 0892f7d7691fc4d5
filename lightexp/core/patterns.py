"""Patterns of zeros and of shared values in kernels, as NumPy: what the file that ships is checked for.

Kernels are laid out as Keras does, `(..., inputs, outputs)`: a dense one `(inputs, outputs)`, a convolution
`(height, width, inputs, outputs)`. A flatbuffer keeps its outputs first (`(out, in)`, OHWI); `real` turns them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.flatmodel import FlatModel, FlatTensor


def kernels(model: FlatModel) -> list[FlatTensor]:
    """The kernels of a file that may bear a pattern: all but the depthwise ones."""
    return [tensor for op, tensor in model.kernels if op.kind != "DEPTHWISE_CONV_2D"]


def real(tensor: FlatTensor) -> NDArray[np.generic]:
    """A flatbuffer's kernel in Keras' layout, its zero point taken off: 0 stands for 0.0."""
    values: NDArray[Any] = np.moveaxis(np.asarray(tensor.data), 0, -1)
    if any(tensor.zero_points):
        values = values.astype(np.int64) - np.asarray(tensor.zero_points)
    return values


def obeys(kernel: NDArray[np.generic], n: int, m: int) -> bool:
    """Whether at most `n` of every `m` neighbours along the inputs are not zero; a shorter last group counts too."""
    used = np.moveaxis(kernel != 0, -2, -1)
    used = np.pad(used, [(0, 0)] * (used.ndim - 1) + [(0, -used.shape[-1] % m)])
    return bool((used.reshape(-1, m).sum(axis=1) <= n).all())


def zero_blocks(kernel: NDArray[np.generic], block: tuple[int, int]) -> int:
    """How many blocks of `(rows, columns)` are all zero, of the kernel as a matrix `(inputs, outputs)`.

    A convolution's rows are height x width x inputs. Blocks at the edges may be smaller.
    """
    used = (kernel != 0).reshape(-1, kernel.shape[-1])
    (rows, columns), (high, wide) = block, used.shape
    used = np.pad(used, ((0, -high % rows), (0, -wide % columns)))
    split = used.reshape(used.shape[0] // rows, rows, used.shape[1] // columns, columns)
    return int((~split.any(axis=(1, 3))).sum())


def distinct(kernel: NDArray[np.generic], per_channel: bool) -> int:
    """How many different values a kernel has, or the output channel that has the most."""
    if not per_channel:
        return len(np.unique(kernel))
    return max(len(np.unique(kernel[..., channel])) for channel in range(kernel.shape[-1]))


def shortfall(
    wanted: Mapping[str, float], sizes: Mapping[str, int], found: Iterable[tuple[int, float]]
) -> tuple[int, float, float] | None:
    """Where the kernels of a file have less of something than the layers were given.

    Layers' names do not survive conversion, so layers and kernels of one size are compared as sets, the most first.

    Args:
        wanted: What each layer was given.
        sizes: Number of each layer's weights.
        found: Size of each kernel of the file, and what it has.

    Returns:
        Size, what was given and what is there, of the first that falls short; None if none does.
    """
    there: dict[int, list[float]] = {}
    for size, value in found:
        there.setdefault(size, []).append(value)
    for size in sorted({sizes[name] for name in wanted}):
        given = sorted((value for name, value in wanted.items() if sizes[name] == size), reverse=True)
        got = sorted(there.get(size, []), reverse=True)
        got += [float("-inf")] * len(given)
        for value, has in zip(given, got, strict=False):
            if has < value:
                return size, value, has
    return None
