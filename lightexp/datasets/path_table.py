"""Paths of many files, in a fraction of the memory that `Path` objects take."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from lightexp.core import memmap

MAX_TABLE_BYTES = 1 << 20
"""Bytes of names in memory; more are kept on disk."""


class PathTable(Sequence[Path]):
    """Paths of files in a few folders: their names one after the other, and where each begins.

    A million `Path` objects take half a gigabyte.

    Example:
        >>> table = PathTable([(Path("cat"), ["1.png", "2.png"]), (Path("dog"), ["1.png"])])
        >>> len(table), str(table[2])
        (3, 'dog/1.png')
    """

    def __init__(self, folders: Iterable[tuple[Path, Iterable[str]]]) -> None:
        """Store the paths.

        Args:
            folders: Each folder with the names of its files.
        """
        self._folders: list[Path] = []
        self._firsts: list[int] = []  # number of paths before each folder
        names, lengths = bytearray(), array("q")
        for folder, files in folders:
            self._folders.append(folder)
            self._firsts.append(len(lengths))
            for name in files:
                encoded = os.fsencode(name)
                names += encoded
                lengths.append(len(encoded))
        self._names = memmap.allocate((len(names),), np.uint8, MAX_TABLE_BYTES)
        self._names[:] = np.frombuffer(names, np.uint8)
        self._starts = memmap.allocate((len(lengths) + 1,), np.int64, MAX_TABLE_BYTES)
        self._starts[0] = 0
        np.cumsum(lengths, out=self._starts[1:])
        for part in (self._names, self._starts):
            memmap.release_pages(part)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...

    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        """Return the path of a number from 0, or those of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = memmap.read_chunk(self._starts, slice(index, index + 2)).tolist()
        name = memmap.read_chunk(self._names, slice(start, end)).tobytes()
        return self._folders[bisect_right(self._firsts, index) - 1] / os.fsdecode(name)
