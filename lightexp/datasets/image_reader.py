"""Read the encoded images of a data set: once into memory or onto disk, or again whenever they are used."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightexp.core import memmap
from lightexp.core.errors import BadInput
from lightexp.core.streamed_array import Indices, Rows, StreamedArray, read_ahead
from lightexp.datasets import images
from lightexp.datasets.images import ImageFormat

BAR_DELAY_S = 1.0
"""Seconds after which the progress bar appears."""
_BATCH = 16  # images that a thread decodes before it asks for more
_MAX_THREADS = 8  # each may hold an image of Pillow's largest size

EncodedImage = tuple[Path | bytes, str]
"""Path or content of an image, and what messages call it."""


class ImageReader:
    """Decodes images of one size in threads, and counts what it changes on them.

    Attributes:
        changes: How often each of `DecodedImage.changes` has happened.
        brightest: The largest value of a channel so far.
    """

    def __init__(self, fetch: Callable[[Indices], Sequence[EncodedImage]], image_format: ImageFormat) -> None:
        """Decode the first image, whose size all must have unless the format states one.

        Args:
            fetch: Returns the images of some indices, in their order.
            image_format: Channels and size of the decoded images.

        Raises:
            BadInput: If the first image cannot be decoded.
        """
        self._fetch = fetch
        self._format = image_format
        ((source, self._first),) = fetch(np.zeros(1, np.intp))
        with images.strict_warnings():
            self._pixels = images.decode_image(source, image_format, self._first).pixels
        self.changes: Counter[str] = Counter()
        self.brightest = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a decoded image."""
        return self._pixels.shape

    def read(self, indices: Indices) -> NDArray[np.uint8]:
        """Decode some images, `(len(indices), height, width, channels)`.

        Raises:
            BadInput: If one is not an image, is damaged, or has another size than the first.
        """
        encoded = self._fetch(indices)
        pixels = np.empty((len(encoded), *self.shape), np.uint8)

        def fill(start: int) -> Counter[str]:
            changes: Counter[str] = Counter()
            for row, (source, title) in enumerate(encoded[start : start + _BATCH], start):
                image = images.decode_image(source, self._format, title)
                changes.update(image.changes)
                if image.pixels.shape != self.shape:
                    raise BadInput(
                        f"{title} is {_format_size(image.pixels.shape)}, {self._first} {_format_size(self.shape)}. "
                        "To resize all images, set dataset.size=[HEIGHT,WIDTH]."
                    )
                pixels[row] = image.pixels
            return changes

        starts = range(0, len(encoded), _BATCH)
        with ThreadPoolExecutor(min(_MAX_THREADS, len(os.sched_getaffinity(0)))) as pool:
            futures = [pool.submit(fill, start) for start in starts[1:]]
            try:
                for changes in (fill(0), *(future.result() for future in futures)):
                    self.changes += changes
            finally:
                pool.shutdown(cancel_futures=True)
        self.brightest = max(self.brightest, int(pixels.max(initial=0)))
        return pixels

    def describe_changes(self) -> tuple[str, ...]:
        """Return sentences for the user on what was changed on the images."""
        return images.describe_changes(self.changes, self._format)


def load_images(
    reader: ImageReader, lists: Sequence[Indices | range], memory: float, disk_gb: float | None
) -> list[Rows]:
    """Decode all images once, with a progress bar on stderr if it takes more than a second.

    A list whose images are larger than `memory` is kept on disk. If there is no room for all such lists, their images
    are decoded again whenever they are used.

    Args:
        reader: Reads the images.
        lists: Indices of the images of each split.
        memory: Bytes of a list that may be kept in memory.
        disk_gb: Gigabytes that may be kept on disk. Defaults to None: what the disk has free.

    Returns:
        The images of each list, uint8.

    Raises:
        BadInput: As `ImageReader.read`.
        RunFailed: If there is no room in memory.
    """
    dtype = np.dtype(np.uint8)
    sources = [StreamedArray(reader.read, indices, reader.shape, dtype, is_encoded=True) for indices in lists]
    large = sum(source.nbytes for source in sources if source.nbytes > memory)
    is_kept = large <= (memmap.measure_free_disk() if disk_gb is None else disk_gb * 1e9)
    arrays: list[Rows] = [
        memmap.allocate(source.shape, np.uint8, memory) if is_kept or source.nbytes <= memory else source
        for source in sources
    ]
    with images.strict_warnings(), show_progress("reading images", sum(map(len, lists))) as advance:
        for source, target in zip(sources, arrays, strict=True):
            source.digest = hashlib.sha256(memmap.describe_array(source))
            for chunk, pixels in read_ahead(source.__getitem__, memmap.iterate_chunks(source)):
                if isinstance(target, StreamedArray):
                    source.digest.update(pixels.data)
                else:
                    target[chunk] = pixels
                    memmap.release_pages(target[chunk])
                advance(len(pixels))
    return arrays


@contextmanager
def show_progress(action: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the number of examples just done; a bar appears on stderr if it takes long."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(action, total=total)
    start = time.monotonic()
    with ExitStack() as stack:

        def advance(count: int) -> None:
            bar.advance(task, count)
            if not bar.live.is_started and time.monotonic() - start > BAR_DELAY_S:
                stack.enter_context(bar)

        yield advance


def _format_size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} pixels high and {shape[1]} wide"
