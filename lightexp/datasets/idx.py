"""IDX files, the format of MNIST: a magic number, the shape, then unsigned bytes."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput

MAX_EXAMPLES = 100_000
"""The most examples that a file may announce, so that a damaged header cannot ask for all memory."""


def read_idx(path: Path, example: tuple[int, ...], remedy: str) -> NDArray[np.uint8]:
    """Reads a gzipped IDX file of unsigned bytes.

    Args:
        path: The file.
        example: Shape that each example must have; `()` for labels.
        remedy: What the user is to do about a file that cannot be used, as a sentence.

    Returns:
        A read-only array `(n, *example)`.

    Raises:
        BadInput: If the file cannot be read, is cut short, is altered, or is of another shape or type.
    """
    try:
        with gzip.open(path) as file:
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
            body = file.read(size + 1)  # one more, so that the end is met and gzip compares its checksum
        if len(body) != size:
            raise ValueError(f"it holds {'more' if len(body) > size else 'less'} than the {size} bytes it announces")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise BadInput(f"{path} cannot be used: {error}. {remedy}") from None
    return np.frombuffer(body, np.uint8).reshape(count, *example)
