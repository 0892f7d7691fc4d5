"""Arrays that may be larger than memory: those above a limit are memory-mapped from an unnamed temporary file."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from collections.abc import Iterator

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lightexp.core.errors import RunFailed
from lightexp.core.formatting import format_bytes

CHUNK_BYTES = 1 << 24


def allocate(shape: tuple[int, ...], dtype: DTypeLike, limit: float = math.inf) -> NDArray[np.generic]:
    """Allocate an uninitialised array in memory, or on disk as a `numpy.memmap`.

    The file is in the folder that TMPDIR names. It has no name, so that the system deletes it when the process ends,
    and its blocks are reserved at once, because writing to a full disk later would kill the process.

    Args:
        shape: Shape of the array.
        dtype: Type of the array.
        limit: Size in bytes above which the array is on disk. Defaults to no limit.

    Returns:
        The array.

    Raises:
        RunFailed: If neither memory nor disk has room.
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
            f"The data need {format_bytes(size)} of memory, which is not available. Set dataset.memory_mb to less, to "
            "keep them on disk."
        ) from None
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RunFailed(
            f"The data need {format_bytes(size)} on disk, in {tempfile.tempdir or 'a temporary folder'}: {reason}. Set "
            "TMPDIR to a folder with room for them."
        ) from None


def iterate_chunks(array: NDArray[np.generic]) -> Iterator[slice]:
    """Return slices over the first axis that cover the array, each of about 16 MB or one row."""
    step = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    return (slice(start, start + step) for start in range(0, len(array), step))


def read_rows(array: NDArray[np.generic], indices: NDArray[np.intp]) -> NDArray[np.generic]:
    """Return `array[indices]`, on disk if the array is on disk."""
    if not isinstance(array, np.memmap):
        return array[indices]
    copy = allocate((len(indices), *array.shape[1:]), array.dtype, 0)
    for chunk in iterate_chunks(copy):
        copy[chunk] = array[indices[chunk]]
    return copy


def reorder(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the array in C order, on disk if the array is on disk; copies only if necessary."""
    if array.flags.c_contiguous:
        return array
    return read_rows(array, np.arange(len(array))) if isinstance(array, np.memmap) else np.ascontiguousarray(array)
