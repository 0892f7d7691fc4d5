"""Decode image files in parallel into arrays; an error names the damaged file."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightexp.core.errors import BadInput
from lightexp.core.regular_files import open_regular
from lightexp.core.size_limits import check_unpacked_size, compute_size_limit
from lightexp.datasets import memmap

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm"}
BAR_DELAY_S = 1.0
"""Seconds after which the progress bar appears."""
# Importing a format's module registers the format with Pillow; no other format is tried.
_PLUGINS = (
    PngImagePlugin.PngImageFile,
    JpegImagePlugin.JpegImageFile,
    BmpImagePlugin.BmpImageFile,
    GifImagePlugin.GifImageFile,
    WebPImagePlugin.WebPImageFile,
    PpmImagePlugin.PpmImageFile,
)
_FORMATS = [plugin.format for plugin in _PLUGINS]
_DEEP_MODES = ("I", "F")
_BATCH = 16
_MAX_THREADS = 8  # each may hold an image of Pillow's largest size


@dataclass(frozen=True)
class ImageFormat:
    """The channels and size to convert images to.

    Attributes:
        channels: 3 for colour, 1 for grey.
        size: Height and width to resize to; None if all images must have the size of the first.
    """

    channels: int
    size: tuple[int, int] | None


def format_path(path: Path | str | None) -> str:
    """Return a path for a message, with unprintable characters escaped."""
    text = str(path)
    return text if text.isprintable() else ascii(text)[1:-1]


def check_size(paths: Sequence[Path], image_format: ImageFormat, max_gb: float | None) -> None:
    """Check what files decode to, from the size that the first one announces.

    Args:
        paths: Paths of the files, at least one.
        image_format: Channels of the arrays, in which all images have the first one's size.
        max_gb: Gigabytes that they may decode to; see `size_limits.compute_size_limit`.

    Raises:
        BadInput: If it is more, or the first file is not an image.
    """
    with _strict_warnings(), _open_image(paths[0]) as image:
        unpacked = image.width * image.height * image_format.channels * len(paths)
    limit = compute_size_limit(sum(path.stat().st_size for path in paths), max_gb)
    check_unpacked_size(paths[0].parent, unpacked, limit, "dataset.max_gb")


def decode_files(lists: Sequence[Sequence[Path]], image_format: ImageFormat, limit: float) -> list[NDArray[np.generic]]:
    """Decode lists of files in parallel, each into an array `(n, height, width, channels)` of uint8.

    Args:
        lists: Paths of the files; the first list must not be empty.
        image_format: Channels and size of the arrays.
        limit: Size in bytes above which an array is on disk; see `memmap.allocate`.

    Returns:
        An array for each list.

    Raises:
        BadInput: If a file is not an image, is damaged, or (if no size is set) has another size than the first.
        RunFailed: If there is no room.
    """
    with _strict_warnings():
        first = lists[0][0]
        size = image_format.size or decode_image(first, image_format).shape[:2]
        arrays = [memmap.allocate((len(paths), *size, image_format.channels), np.uint8, limit) for paths in lists]

        def fill(array: NDArray[np.generic], paths: Sequence[Path], start: int) -> int:
            for row, path in enumerate(paths[start : start + _BATCH], start):
                pixels = decode_image(path, image_format)
                if pixels.shape[:2] != size:
                    raise BadInput(
                        f"{format_path(path)} is {_format_size(pixels.shape[:2])}, {format_path(first)} "
                        f"{_format_size(size)}. To resize all images, set dataset.size=[HEIGHT,WIDTH]."
                    )
                array[row] = pixels
            return min(_BATCH, len(paths) - start)

        with ThreadPoolExecutor(min(_MAX_THREADS, len(os.sched_getaffinity(0)))) as pool:
            futures = [
                pool.submit(fill, array, paths, start)
                for array, paths in zip(arrays, lists, strict=True)
                for start in range(0, len(paths), _BATCH)
            ]
            try:
                _wait(futures, sum(map(len, lists)))
            finally:
                pool.shutdown(cancel_futures=True)
    return arrays


@contextmanager
def _strict_warnings() -> Iterator[None]:
    """Raise Pillow's warning about a decompression bomb in a block, and ignore others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about metadata that is not used here
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode_image(path: Path, image_format: ImageFormat) -> NDArray[np.uint8]:
    """Decode an image.

    Args:
        path: Path of the file.
        image_format: Channels and size of the array; with no size, the image's own.

    Returns:
        An array `(height, width, channels)`.

    Raises:
        BadInput: If it cannot be decoded, or has more than 8 bits per channel.
    """
    with _open_image(path) as image:
        if image.mode.startswith(_DEEP_MODES):  # Pillow would clip values at 255
            raise BadInput(f"{format_path(path)} has more than 8 bits a channel ({image.mode}). Save it with 8.")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        converted: Any = image.convert("RGB" if image_format.channels == 3 else "L")
        if image_format.size:
            height, width = image_format.size
            converted = converted.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(converted).reshape(converted.height, converted.width, image_format.channels)


@contextmanager
def _open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image; what a decoder raises in the block is one line that names the file."""
    try:
        with open_regular(path) as file, Image.open(file, formats=_FORMATS) as image:
            yield image
        return
    except BadInput:
        raise
    except UnidentifiedImageError:
        reason = f"is damaged or not an image of a known format ({', '.join(_FORMATS)})"
    except Exception as error:  # decoders raise errors of any kind on damaged files
        message = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
        reason = f"cannot be decoded: {' '.join(message.split())[:200] or type(error).__name__}"
    raise BadInput(f"{format_path(path)} {reason}. Replace it or delete it.")


def _wait(futures: Sequence[Future[int]], total: int) -> None:
    """Wait until all batches are decoded, or raise the error of the first in order that fails."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("reading images", total=total)
    start = time.monotonic()
    with ExitStack() as stack:
        for future in futures:
            bar.advance(task, future.result())
            if not bar.live.is_started and time.monotonic() - start > BAR_DELAY_S:
                stack.enter_context(bar)


def _format_size(size: tuple[int, ...]) -> str:
    return f"{size[0]} pixels high and {size[1]} wide"
