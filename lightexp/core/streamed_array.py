"""Arrays whose rows are read from files whenever they are indexed, and the reading of rows ahead of their use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.integer[Any]]


class StreamedArray:
    """Rows of an array `(n, *shape)` that is never in memory as a whole.

    Attributes:
        indices: The index of each row.
        shape: Shape of the array.
        dtype: Type of its numbers.
        is_encoded: Whether reading decodes, which takes longer than copying.
        digest: SHA-256 over all rows, after `memmap.describe_array`, where they have been read; else None.

    Example:
        >>> rows = StreamedArray(lambda indices: indices[:, None] * 10, np.arange(4), (1,), np.dtype(np.int64))
        >>> rows[1:3].tolist(), rows.select(np.array([3, 0]))[:].tolist()
        ([[10], [20]], [[30], [0]])
    """

    def __init__(
        self,
        read: Callable[[Indices], NDArray[np.generic]],
        indices: Indices | range,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        is_encoded: bool = False,
    ) -> None:
        """Read nothing yet.

        Args:
            read: Returns the rows of some indices, in their order, `(len(indices), *shape)`.
            indices: The index of each row, `(n,)`; a range takes no memory.
            shape: Shape of a row.
            dtype: Type of a row's numbers.
            is_encoded: Whether reading decodes, which takes longer than copying. Defaults to False.
        """
        self._read = read
        self.indices = indices
        self.shape = (len(indices), *shape)
        self.dtype = dtype
        self.is_encoded = is_encoded
        self.digest: Any = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the array would take in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, rows: slice | Indices) -> NDArray[np.generic]:
        """Read some rows into memory; their numbers are from 0."""
        return self._read(self._find_indices(rows))

    def select(self, rows: Indices) -> StreamedArray:
        """Return an array of some of the rows, without reading them."""
        return StreamedArray(self._read, self._find_indices(rows), self.shape[1:], self.dtype, self.is_encoded)

    def _find_indices(self, rows: slice | Indices) -> Indices:
        if not isinstance(self.indices, range):
            return self.indices[rows]
        if isinstance(rows, slice):
            selected = self.indices[rows]
            return np.arange(selected.start, selected.stop, selected.step)
        return self.indices.start + rows * self.indices.step


def make_indices(first: int, count: int) -> StreamedArray:
    """Return an array of consecutive indices, `(count,)`, which takes no memory."""
    return StreamedArray(lambda indices: indices, range(first, first + count), (), np.dtype(np.int64))


Rows = NDArray[np.generic] | StreamedArray
"""The examples of a split, in memory or not."""


def read_ahead(
    read: Callable[[slice], NDArray[np.generic]], chunks: Iterable[slice]
) -> Iterator[tuple[slice, NDArray[np.generic]]]:
    """Yield each chunk with its rows, while a thread reads the next one."""
    with ThreadPoolExecutor(1, thread_name_prefix="lightexp-read") as pool:
        pending = None
        for chunk in chunks:
            following = chunk, pool.submit(read, chunk)
            if pending:
                yield pending[0], pending[1].result()
            pending = following
        if pending:
            yield pending[0], pending[1].result()
