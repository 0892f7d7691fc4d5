"""Arrays that may be larger than memory: those above a limit are memory-mapped from an unnamed temporary file."""

from __future__ import annotations

import errno
import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lightexp.core.errors import RunFailed, format_reason
from lightexp.core.formatting import format_bytes
from lightexp.core.streamed_array import Rows, StreamedArray, read_ahead

CHUNK_BYTES = 1 << 22
MAPPED_BYTES = 1 << 18  # of a chunk that functions compute with, in double precision and several copies
_MAPPED_AROUND_BYTES = 1 << 21  # that Linux may map around a page when it is used
_SUMMED_AT_ONCE, _SUMMED_TOGETHER = 128, 8  # numbers that `numpy.sum` does not halve, and a multiple of which it halves


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
            if size > measure_free_disk():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "r+", shape=shape)
    except MemoryError:
        raise RunFailed(
            f"The data need {format_bytes(size)} of memory, which is not available. Set dataset.memory_mb to less, to "
            "keep them on disk."
        ) from None
    except (OSError, OverflowError) as error:
        folder = tempfile.tempdir or "a temporary folder"
        raise RunFailed(
            f"The data need {format_bytes(size)} on disk, in {folder}: {format_reason(error)}. Set TMPDIR to a folder "
            "with room for them."
        ) from None


def measure_free_disk() -> int:
    """Return how many bytes are free in the folder of temporary files."""
    disk = os.statvfs(tempfile.gettempdir())
    return disk.f_bavail * disk.f_frsize


def describe_array(array: Rows) -> bytes:
    """Return type and shape of an array, which precede its rows in digests."""
    return f"{array.dtype.str}{array.shape}".encode()


def iterate_chunks(array: Rows, step: int = 1, size: int | None = None) -> Iterator[slice]:
    """Return slices over the first axis that cover the array, each of about 4 MB or one row.

    Args:
        array: The array.
        step: What the lengths of all slices but the last are a multiple of. Defaults to 1.
        size: Bytes of a slice. Defaults to None: `CHUNK_BYTES`.
    """
    row_bytes = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
    length = max(1, (size or CHUNK_BYTES) // row_bytes // step) * step
    return (slice(start, start + length) for start in range(0, len(array), length))


def release_pages(array: NDArray[np.generic]) -> None:
    """Stop counting the pages of a part of a mapped file to the process; they stay in the system's cache of files.

    Without this the resident memory of a process grows to the size of the file. Does nothing in memory.
    """
    file: Any = array
    while isinstance(file, np.ndarray):
        file = file.base
    if not isinstance(file, mmap.mmap) or not array.nbytes or not array.flags.c_contiguous:
        return
    place = array.ctypes.data - np.frombuffer(file, np.uint8, 1).ctypes.data
    start = max(0, place - _MAPPED_AROUND_BYTES) // mmap.PAGESIZE * mmap.PAGESIZE
    file.madvise(mmap.MADV_DONTNEED, start, min(len(file), place + array.nbytes + _MAPPED_AROUND_BYTES) - start)


def read_chunk(array: Rows, rows: slice | NDArray[np.integer[Any]]) -> NDArray[np.generic]:
    """Return some rows in memory, a copy if the array is on disk."""
    if not isinstance(array, np.memmap):
        return array[rows]
    copy = np.array(array[rows])
    release_pages(array[rows] if isinstance(rows, slice) else array)  # one call, however many rows are scattered
    return copy


def read_in_chunks(array: Rows, step: int = 1) -> Iterator[tuple[slice, NDArray[np.generic]]]:
    """Yield the slices of `iterate_chunks` with their rows; those on disk are read by a thread, ahead of their use."""
    if isinstance(array, np.memmap | StreamedArray):
        yield from read_ahead(partial(read_chunk, array), iterate_chunks(array, step))
    else:
        yield from ((chunk, array[chunk]) for chunk in iterate_chunks(array, step))


def map_chunks(function: Callable[..., NDArray[Any]], array: NDArray[Any], *others: NDArray[Any]) -> NDArray[Any]:
    """Return `function(array, *others)`, which has a value for each row, computed chunk by chunk.

    Values that take more than `CHUNK_BYTES` are on disk.

    Args:
        function: Takes some rows of each array and returns an array of as many rows, each of which depends on the same
            row alone.
        array: The largest array.
        *others: Arrays of as many rows.
    """
    values: NDArray[Any] | None = None
    for chunk in iterate_chunks(array, size=MAPPED_BYTES):
        rows = function(array[chunk], *(other[chunk] for other in others))
        if values is None:
            values = allocate((len(array), *rows.shape[1:]), rows.dtype, CHUNK_BYTES)
        values[chunk] = rows
        for part in (values, array, *others):
            release_pages(part[chunk])
    return function(array, *others) if values is None else values


def sum_chunks(function: Callable[..., Any], array: NDArray[Any], *others: NDArray[Any]) -> Any:
    """Return `function(array, *others)`, which is a sum over rows, computed chunk by chunk.

    The arrays are halved as `numpy.sum` halves them, so that sums of floats are equal to the last bit.

    Args:
        function: Takes some rows of each array, and returns a number or an array.
        array: The largest array.
        *others: Arrays of as many rows.
    """
    limit = max(MAPPED_BYTES // max(1, math.prod(array.shape[1:]) * array.dtype.itemsize), _SUMMED_AT_ONCE)
    if (count := len(array)) <= limit:
        total = function(array, *others)
        for part in (array, *others):
            release_pages(part)
        return total
    half = count // 2 - count // 2 % _SUMMED_TOGETHER
    first, second = (
        sum_chunks(function, *(part[rows] for part in (array, *others))) for rows in (slice(half), slice(half, None))
    )
    return first + second


def read_rows(array: Rows, indices: NDArray[np.intp]) -> Rows:
    """Return `array[indices]`, whose rows stay where they are if the array is on disk."""
    if isinstance(array, StreamedArray):
        return array.select(indices)
    if isinstance(array, np.memmap):
        return StreamedArray(partial(read_chunk, array), np.asarray(indices), array.shape[1:], array.dtype)
    return array[indices]


def reorder(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the array in C order, on disk if the array is on disk; copies only if necessary."""
    if array.flags.c_contiguous:
        return array
    if not isinstance(array, np.memmap):
        return np.ascontiguousarray(array)
    copy = allocate(array.shape, array.dtype, 0)
    for chunk in iterate_chunks(copy):
        copy[chunk] = array[chunk]
        release_pages(copy[chunk])
    return copy
