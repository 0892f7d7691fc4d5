"""Read IDX files, the format of MNIST: a magic number, the shape, then unsigned bytes."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput, format_reason
from lightexp.core.regular_files import open_regular

MAX_EXAMPLES = 100_000
"""Largest number of examples in a file, so that a damaged header does not exhaust memory."""


def read_idx(path: Path, example: tuple[int, ...], remedy: str) -> NDArray[np.uint8]:
    """Read a gzipped IDX file of unsigned bytes.

    Args:
        path: Path of the file.
        example: Expected shape of each example; `()` for labels.
        remedy: What the user can do about an unusable file, as a sentence.

    Returns:
        A read-only array `(n, *example)`.

    Raises:
        BadInput: If the file cannot be read, is truncated or altered, or has another shape or type.
    """
    try:
        with open_regular(path) as packed, gzip.open(packed) as file:
            header = file.read(8 + 4 * len(example))
            if len(header) < 8 + 4 * len(example):
                raise ValueError("it ends within its header")
            magic, count, *shape = map(int, np.frombuffer(header, ">u4"))
            if magic != 0x801 + len(example):
                raise ValueError(f"its magic number is {magic:#x}, not {0x801 + len(example):#x}")
            if tuple(shape) != example or not 0 < count <= MAX_EXAMPLES:
                raise ValueError(
                    f"it announces {count} examples of {tuple(shape)}, not 1 to {MAX_EXAMPLES} of {example}"
                )
            size = count * math.prod(example)
            body = file.read(size + 1)  # one more, so that gzip reaches the end and compares the checksum
        if len(body) != size:
            raise ValueError(f"it holds {'more' if len(body) > size else 'less'} than the {size} bytes it announces")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise BadInput(f"{path} cannot be used: {format_reason(error)}. {remedy}") from None
    return np.frombuffer(body, np.uint8).reshape(count, *example)
