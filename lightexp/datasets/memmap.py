"""Arrays that may be larger than memory: those above a limit lie in a file that nobody else sees."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from collections.abc import Iterator

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lightexp.core.errors import RunFailed

_PIECE = 1 << 24


def allocate(shape: tuple[int, ...], dtype: DTypeLike, limit: float = math.inf) -> NDArray[np.generic]:
    """An array to be filled: in memory, or on disk as a `numpy.memmap`.

    The file has no name, so that nothing of it is left when the process ends, however it ends. It is in the folder
    that TMPDIR names, and its blocks are reserved at once, since a full disk would later kill the process.

    Args:
        shape: The array's shape.
        dtype: The array's type.
        limit: Bytes; what is larger is on disk. Defaults to none.

    Raises:
        RunFailed: If neither memory nor disk has as much.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        if size <= limit:
            return np.empty(shape, dtype)
        with tempfile.TemporaryFile(prefix="lightexp-") as file:
            disk = os.fstatvfs(file.fileno())
            if size > disk.f_bavail * disk.f_frsize:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "r+", shape=shape)
    except MemoryError:
        raise RunFailed(
            f"The data need {_shown(size)} of memory, which are not there. Set dataset.memory_mb to less, to keep "
            "them on disk."
        ) from None
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RunFailed(
            f"The data need {_shown(size)} on disk, in {tempfile.tempdir or 'a temporary folder'}: {why}. Set TMPDIR "
            "to a folder with room for them."
        ) from None


def iterate_chunks(array: NDArray[np.generic]) -> Iterator[slice]:
    """Slices over the first axis, of some 16 MB each, or one row, that together are the whole array."""
    step = max(1, _PIECE // max(1, array[:1].nbytes))
    return (slice(start, start + step) for start in range(0, len(array), step))


def read_rows(array: NDArray[np.generic], chosen: NDArray[np.intp]) -> NDArray[np.generic]:
    """`array[chosen]`, on disk if the array is."""
    if not isinstance(array, np.memmap):
        return array[chosen]
    copy = allocate((len(chosen), *array.shape[1:]), array.dtype, 0)
    for piece in iterate_chunks(copy):
        copy[piece] = array[chosen[piece]]
    return copy


def reorder(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """The array in C order, on disk if the array is; a copy only where it has to be."""
    if array.flags.c_contiguous:
        return array
    return read_rows(array, np.arange(len(array))) if isinstance(array, np.memmap) else np.ascontiguousarray(array)


def _shown(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
