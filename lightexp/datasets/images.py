"""Decode images into arrays; an error names the damaged file."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

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
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from pydantic import Field

from lightexp.backend.stderr import silence_stderr
from lightexp.core.errors import BadInput
from lightexp.core.regular_files import open_regular
from lightexp.core.size_limits import check_unpacked_size, compute_size_limit

_Byte = Annotated[int, Field(ge=0, le=255)]
ImageSize = Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=2, max_length=2)]
"""Height and width."""
Background = _Byte | Annotated[list[_Byte], Field(min_length=3, max_length=3)]
"""A grey level, or red, green and blue."""
SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
# Importing a format's module registers the format with Pillow; no other format is tried.
_PLUGINS = (
    PngImagePlugin.PngImageFile,
    JpegImagePlugin.JpegImageFile,
    BmpImagePlugin.BmpImageFile,
    GifImagePlugin.GifImageFile,
    WebPImagePlugin.WebPImageFile,
    PpmImagePlugin.PpmImageFile,
    TiffImagePlugin.TiffImageFile,
)
_FORMATS = [plugin.format for plugin in _PLUGINS]
_MAX_DEEP = 65_535  # of 16 bits
_NOTES = {
    "transparent": "{count} images are transparent: they are put on dataset.background={background}.",
    "blank": "{count} transparent images have one colour on dataset.background={background}. Choose another one.",
    "deep": "{count} images have 16 bits a pixel: their upper 8 bits are used.",
}
"""Messages to the user, by what was changed on an image."""


@dataclass(frozen=True)
class ImageFormat:
    """The channels and size to convert images to.

    Attributes:
        channels: 3 for colour, 1 for grey.
        size: Height and width to resize to; None if all images must have the size of the first.
        background: Red, green and blue behind transparent pixels, from 0 to 255. Defaults to white.
    """

    channels: int
    size: tuple[int, int] | None
    background: tuple[int, int, int] = (255, 255, 255)


@dataclass(frozen=True)
class DecodedImage:
    """An image and what was changed on it.

    Attributes:
        pixels: Array `(height, width, channels)` of uint8.
        changes: Keys of `_NOTES`.
    """

    pixels: NDArray[np.uint8]
    changes: tuple[str, ...] = ()


def make_format(channels: Literal[1, 3], size: Sequence[int] | None, background: Background) -> ImageFormat:
    """Return the format that the settings of a data set describe."""
    red, green, blue = background if isinstance(background, list) else [background] * 3
    return ImageFormat(channels, (size[0], size[1]) if size else None, (red, green, blue))


def count_channels(content: bytes, title: str) -> Literal[1, 3]:
    """Return 1 for a grey image and 3 for any other, from its content."""
    with _open_image(content, title) as image:
        return 1 if image.mode.startswith(("1", "L", "I", "F")) else 3


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
    with strict_warnings(), _open_image(paths[0], format_path(paths[0])) as image:
        unpacked = image.width * image.height * image_format.channels * len(paths)
    limit = compute_size_limit(sum(path.stat().st_size for path in paths), max_gb)
    check_unpacked_size(paths[0].parent, unpacked, limit, "dataset.max_gb")


def describe_changes(changes: Counter[str], image_format: ImageFormat) -> tuple[str, ...]:
    """Return sentences for the user on what was changed, from `DecodedImage.changes` of all images."""
    background = f"[{','.join(map(str, image_format.background))}]"
    return tuple(_NOTES[kind].format(count=changes[kind], background=background) for kind in _NOTES if changes[kind])


@contextmanager
def strict_warnings() -> Iterator[None]:
    """Raise Pillow's warning about a decompression bomb in a block, and ignore others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about metadata that is not used here
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode_image(source: Path | bytes, image_format: ImageFormat, title: str | None = None) -> DecodedImage:
    """Decode an image.

    Args:
        source: Path of the file, or its content.
        image_format: Channels and size of the array; with no size, the image's own.
        title: What messages call it. Defaults to None: the path.

    Returns:
        The image, its transparent parts put on the background, with the upper 8 of 16 bits.

    Raises:
        BadInput: If it cannot be decoded, or has more than 16 bits per channel.
    """
    title = title or format_path(str(source))
    with _open_image(source, title) as image:
        _load_pixels(image)
        ImageOps.exif_transpose(image, in_place=True)
        converted: Any = image
        changes: tuple[str, ...] = ()
        if image.mode == "F" or image.mode.startswith("I"):
            converted, changes = _reduce_depth(title, image), ("deep",)
        elif image.has_transparency_data:
            converted, changes = _flatten(image, image_format.background)
        converted = converted.convert("RGB" if image_format.channels == 3 else "L")
        if image_format.size:
            height, width = image_format.size
            converted = converted.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(converted).reshape(converted.height, converted.width, image_format.channels)
        return DecodedImage(pixels, changes)


def _load_pixels(image: Image.Image) -> None:
    """Decode the pixels; what libtiff prints is discarded, as the exception says what is wrong with the file."""
    if image.format != "TIFF":
        image.load()
        return
    failure: Exception | None = None
    with silence_stderr():
        try:
            image.load()
        except Exception as error:  # of any kind; raised outside, since the context prints what it has discarded
            failure = error
    if failure:
        raise failure


def _reduce_depth(title: str, image: Image.Image) -> Image.Image:
    """Return the upper 8 bits of an image of 16; Pillow's own conversion would clip values at 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > _MAX_DEEP:
        raise BadInput(f"{title} has more than 16 bits a channel ({image.mode}). Save it with 8 or 16.")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _flatten(image: Image.Image, background: tuple[int, int, int]) -> tuple[Image.Image, tuple[str, ...]]:
    """Return an image on a background, and what that has changed."""
    coloured = image.convert("RGBA")
    if coloured.getchannel("A").getextrema() == (255, 255):
        return coloured, ()
    flat = Image.alpha_composite(Image.new("RGBA", coloured.size, (*background, 255)), coloured).convert("RGB")
    pixels = np.asarray(flat)
    is_blank = bool((pixels == pixels[0, 0]).all())
    return flat, ("transparent", "blank") if is_blank else ("transparent",)


@contextmanager
def _open_image(source: Path | bytes, title: str) -> Iterator[Image.Image]:
    """Open an image; what a decoder raises in the block is one line that names it."""
    try:
        content = BytesIO(source) if isinstance(source, bytes) else open_regular(source)
        with content as file, Image.open(file, formats=_FORMATS) as image:
            yield image
        return
    except BadInput:
        raise
    except UnidentifiedImageError:
        reason = f"is damaged or not an image of a known format ({', '.join(_FORMATS)})"
    except Exception as error:  # decoders raise errors of any kind on damaged files
        message = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
        reason = f"cannot be decoded: {' '.join(message.split())[:200] or type(error).__name__}"
    raise BadInput(f"{title} {reason}. Replace it or delete it.")
