"""Image files of a user's into arrays: many at once, and a broken one is named."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
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
from lightexp.datasets import memmap

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm"}
BAR_DELAY_S = 1.0
"""Seconds without a progress bar."""
# Importing a format's module is what makes it known; no other is tried.
_PLUGINS = (
    PngImagePlugin.PngImageFile,
    JpegImagePlugin.JpegImageFile,
    BmpImagePlugin.BmpImageFile,
    GifImagePlugin.GifImageFile,
    WebPImagePlugin.WebPImageFile,
    PpmImagePlugin.PpmImageFile,
)
_FORMATS = [plugin.format for plugin in _PLUGINS]
_DEEP = ("I", "F")
_TOGETHER = 16
_THREADS = 8  # each may hold an image of Pillow's largest size


@dataclass(frozen=True)
class ImageFormat:
    """How images are to be.

    Attributes:
        channels: 3 for colour, 1 for grey.
        size: Height and width that they are resized to; None where all are to be of the first one's.
    """

    channels: int
    size: tuple[int, int] | None


def format_path(path: Path | str | None) -> str:
    """A path as a message shows it, on one line."""
    text = str(path)
    return text if text.isprintable() else ascii(text)[1:-1]


def decode_files(lists: Sequence[Sequence[Path]], kept: ImageFormat, limit: float) -> list[NDArray[np.generic]]:
    """Decodes files in parallel, each list into an array `(n, height, width, channels)` of uint8.

    Args:
        lists: The files; the first list has one at least.
        kept: How they are to be.
        limit: Bytes above which an array is on disk: see `large.room`.

    Raises:
        BadInput: If a file is no image, is damaged, or (where sizes are not set) is not of the first one's size.
        RunFailed: If there is no room.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that nobody asked for
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        first = lists[0][0]
        size = kept.size or decode_image(first, kept).shape[:2]
        arrays = [memmap.allocate((len(files), *size, kept.channels), np.uint8, limit) for files in lists]

        def fill(array: NDArray[np.generic], files: Sequence[Path], start: int) -> int:
            for row, path in enumerate(files[start : start + _TOGETHER], start):
                pixels = decode_image(path, kept)
                if pixels.shape[:2] != size:
                    raise BadInput(
                        f"{format_path(path)} is {_words(pixels.shape[:2])}, {format_path(first)} {_words(size)}. "
                        "To resize all images, set dataset.size=[HEIGHT,WIDTH]."
                    )
                array[row] = pixels
            return min(_TOGETHER, len(files) - start)

        with ThreadPoolExecutor(min(_THREADS, len(os.sched_getaffinity(0)))) as pool:
            jobs = [
                pool.submit(fill, array, files, start)
                for array, files in zip(arrays, lists, strict=True)
                for start in range(0, len(files), _TOGETHER)
            ]
            try:
                _wait(jobs, sum(map(len, lists)))
            finally:
                pool.shutdown(cancel_futures=True)
    return arrays


def decode_image(path: Path, kept: ImageFormat) -> NDArray[np.uint8]:
    """One image, `(height, width, channels)`; with no size set, of its own.

    Raises:
        BadInput: If it cannot be decoded, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.mode.startswith(_DEEP):  # Pillow would cut values off at 255
                raise BadInput(f"{format_path(path)} has more than 8 bits a channel ({image.mode}). Save it with 8.")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            plain: Any = image.convert("RGB" if kept.channels == 3 else "L")
            if kept.size:
                plain = plain.resize(kept.size[::-1], Image.Resampling.BILINEAR)
            return np.asarray(plain).reshape(plain.height, plain.width, kept.channels)
    except BadInput:
        raise
    except UnidentifiedImageError:
        why = f"is damaged or not an image of a known format ({', '.join(_FORMATS)})"
    except Exception as error:  # decoders of damaged files raise of every kind
        words = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
        why = f"cannot be decoded: {' '.join(words.split())[:200] or type(error).__name__}"
    raise BadInput(f"{format_path(path)} {why}. Replace it or delete it.")


def _wait(jobs: Sequence[Future[int]], total: int) -> None:
    """Waits for all jobs, or for the first in order that fails."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("reading images", total=total)
    began = time.monotonic()
    with ExitStack() as shown_late:
        for job in jobs:
            bar.advance(task, job.result())
            if not bar.live.is_started and time.monotonic() - began > BAR_DELAY_S:
                shown_late.enter_context(bar)


def _words(size: tuple[int, ...]) -> str:
    return f"{size[0]} pixels high and {size[1]} wide"
