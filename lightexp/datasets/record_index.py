"""Index of the records of TFRecord files, by which they are read again in any order."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightexp.core import memmap
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.regular_files import open_regular
from lightexp.core.streamed_array import Indices
from lightexp.datasets import tfrecord_files
from lightexp.datasets.tfrecord_files import FRAME_BYTES, HEADER_BYTES

MAX_INDEX_BYTES = 1 << 22
"""Bytes of an index in memory; a larger one is kept on disk."""


class RecordIndex:
    """Index of the records of some uncompressed files, 8 bytes for each record; a large one is on disk."""

    def __init__(self, counts: Mapping[Path, int], visit: Callable[[Path, int, bytes], None]) -> None:
        """Read all records once, and compare their checksums.

        Args:
            counts: Number of records of each file.
            visit: Called with file, number in the file and content of each record.

        Raises:
            BadInput: If a file cannot be read, is damaged, or holds another number of records.
            RunFailed: If the disk has no room for the index.
        """
        self._paths = list(counts)
        self._versions: list[tuple[int, int]] = []
        self._firsts = np.array([0, *accumulate(counts.values())])
        self._starts = memmap.allocate((int(self._firsts[-1]) + 1,), np.int64, MAX_INDEX_BYTES)
        self._bases = [0]  # bytes of all files before each
        for path, first, end in zip(counts, self._firsts[:-1], self._firsts[1:], strict=True):
            self._versions.append(_identify(os.stat(path)))
            lengths = []
            for number, record in enumerate(tfrecord_files.read_records(path)):
                lengths.append(len(record) + FRAME_BYTES)
                visit(path, number, record)
            if len(lengths) != end - first:
                raise BadInput(
                    f"{path} has changed while it was read. Leave the data alone, and run the command again."
                )
            starts = self._starts[first : end + 1]
            starts[:] = self._bases[-1] + np.array([0, *accumulate(lengths)])
            self._bases.append(int(starts[-1]))
            memmap.release_pages(starts)

    def locate(self, index: int) -> tuple[Path, int]:
        """Return the file of a record, and the record's number in it."""
        file = int(np.searchsorted(self._firsts, index, "right")) - 1
        return self._paths[file], int(index - self._firsts[file])

    def read(self, indices: Indices) -> list[bytes]:
        """Return the records of some indices, in their order; neighbours are read together.

        Raises:
            RunFailed: If a file has changed since it was read first.
        """
        records = [b""] * len(indices)
        order = np.argsort(indices, kind="stable")
        ordered = indices[order]
        files = np.searchsorted(self._firsts, ordered, "right") - 1
        breaks = np.flatnonzero((np.diff(ordered) != 1) | (np.diff(files) != 0)) + 1
        for places in np.split(order, breaks) if len(order) else []:
            bounds = memmap.read_chunk(self._starts, slice(indices[places[0]], indices[places[-1]] + 2))
            file = int(np.searchsorted(self._firsts, indices[places[0]], "right")) - 1
            content = self._read_span(file, bounds)
            offsets = (bounds - bounds[0]).tolist()
            for place, start, end in zip(places.tolist(), offsets[:-1], offsets[1:], strict=True):
                records[place] = content[start + HEADER_BYTES : end - (FRAME_BYTES - HEADER_BYTES)]
        return records

    def _read_span(self, file: int, bounds: NDArray[np.generic]) -> bytes:
        """Return the bytes of a file between the first and the last of some places."""
        start, length = int(bounds[0]) - self._bases[file], int(bounds[-1] - bounds[0])
        path = self._paths[file]
        try:
            with open_regular(path) as opened:
                if _identify(os.fstat(opened.fileno())) == self._versions[file]:
                    return os.pread(opened.fileno(), length, start)
            reason = "has changed since it was read first"
        except OSError as error:
            reason = f"can no longer be read: {error.strerror}"
        raise RunFailed(f"{path} {reason}. Run the same command again, and leave the data alone meanwhile.")


def _identify(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
