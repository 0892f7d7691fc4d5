"""Tests of decoding images: formats, transparency and depth."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lightexp.core.errors import BadInput
from lightexp.datasets import images
from lightexp.datasets.image_folder import ImageFolder
from tests.datasets.image_files import PIXELS, save


def decode(path: Path, channels: int = 3, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    return images.decode_image(path, images.ImageFormat(channels, size)).pixels


class TestDecodeImage:
    """Decoding of a single image."""

    @pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "gif", "webp", "PNG", "jpg", "jfif", "tif", "tiff"])
    def test_every_format(self, suffix: str, tmp_path: Path) -> None:
        grey = np.full((8, 6), 7, np.uint8)
        path = save(tmp_path / f"a.{suffix}", grey, **({"lossless": True} if suffix == "webp" else {}))
        assert (decode(path, 1) == grey[..., None]).all()
        assert (decode(path) == 7).all()

    def test_colour_becomes_grey_and_grey_colour(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", PIXELS[0])
        grey = decode(path, 1)
        assert np.abs(grey[..., 0] - PIXELS[0] @ np.array([0.299, 0.587, 0.114])).max() < 1.5

    def test_first_frame_of_animation_is_used(self, tmp_path: Path) -> None:
        frames = [Image.new("L", (6, 8), value) for value in (7, 99)]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        assert (decode(tmp_path / "a.gif", 1) == 7).all()

    @pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
    def test_exif_orientation_is_applied(self, orientation: int, turns: int, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / "a.png", PIXELS[0], exif=exif)
        assert np.array_equal(decode(path), np.rot90(PIXELS[0], turns))

    def test_resizing_is_antialiased(self, tmp_path: Path) -> None:
        stripes = (np.arange(64) % 2 * 200).astype(np.uint8)[None].repeat(32, 0)
        small = decode(save(tmp_path / "a.png", stripes), 1, (4, 8))
        assert small.shape == (4, 8, 1)
        assert np.abs(small.astype(int) - 100).max() < 10


def draw_icon(mode: str, colour: int) -> Image.Image:
    """Return a square in the middle of a transparent image whose colour is the same everywhere."""
    icon = np.zeros((8, 8, 4), np.uint8)
    icon[..., :3] = colour
    icon[2:6, 2:6, 3] = 255
    image = Image.fromarray(icon)
    return image.convert("LA") if mode == "LA" else image.quantize(4) if mode == "P" else image


class TestTransparency:
    """Transparent images are put on a background, and the user is told."""

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_icons_are_put_on_the_background(self, mode: str, channels: int, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        draw_icon(mode, 0).save(path)
        pixels = decode(path, channels)
        assert (pixels[2:6, 2:6] == 0).all()
        assert (pixels[:2] == 255).all()
        red = images.decode_image(path, images.ImageFormat(3, (8, 8), (255, 0, 0)))
        assert red.pixels[0, 0].tolist() == [255, 0, 0]
        assert red.changes == ("transparent",)

    def test_opaque_images_stay_as_they_are(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", np.concatenate([PIXELS[0], np.full_like(PIXELS[0, ..., :1], 255)], 2))
        assert np.array_equal(decode(path), PIXELS[0])
        assert not images.decode_image(path, images.ImageFormat(3, None)).changes

    def test_transparent_pixels_are_mixed_with_the_background(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", np.concatenate([PIXELS[0], PIXELS[1, ..., :1]], 2))
        alpha = PIXELS[1, ..., :1] / 255
        assert np.abs(decode(path) - (PIXELS[0] * alpha + 255 * (1 - alpha))).max() <= 1

    def test_user_is_told(self, tmp_path: Path) -> None:
        for name, colour in (("white", 255), ("black", 0)):
            (tmp_path / name).mkdir()
            for number in range(5):
                draw_icon("RGBA", colour).save(tmp_path / name / f"{number}.png")
        notes = ImageFolder(str(tmp_path)).load().notes
        assert "10 images are transparent: they are put on dataset.background=[255,255,255]." in notes
        assert notes[1].startswith("5 transparent images have one colour on dataset.background")
        grey = ImageFolder(str(tmp_path), background=[0, 128, 0])
        assert len(grey.load().notes) == 1
        assert (grey.load().train.x[:, 0, 0] == [0, 128, 0]).all()
        with pytest.raises(BadInput, match="background"):
            ImageFolder(str(tmp_path), background=256)


def write_deep_png(path: Path, values: NDArray[np.uint16], colour: int) -> Path:
    """Write a PNG with 16 bits a channel; the colour types 0, 2, 4, 6 are grey, RGB, grey with alpha, RGBA."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


class TestDepth:
    """Of images with 16 bits a channel, the upper 8 are used, in grey and in colour."""

    VALUES: NDArray[np.uint16] = np.random.default_rng(0).integers(0, 65_536, (6, 5, 3), np.uint16)

    def test_16_bits_of_grey_and_colour(self, tmp_path: Path) -> None:
        grey = write_deep_png(tmp_path / "grey.png", self.VALUES[..., 0], 0)
        assert np.array_equal(decode(grey, 1)[..., 0], self.VALUES[..., 0] >> 8)
        assert images.decode_image(grey, images.ImageFormat(1, None)).changes == ("deep",)
        assert np.array_equal(decode(write_deep_png(tmp_path / "rgb.png", self.VALUES, 2)), self.VALUES >> 8)

    @pytest.mark.parametrize("kind", ["<u2", ">u2"])
    def test_16_bits_of_tiff(self, kind: str, tmp_path: Path) -> None:
        path = save(tmp_path / "a.tif", self.VALUES[..., 0].astype(kind))
        assert np.array_equal(decode(path, 1)[..., 0], self.VALUES[..., 0] >> 8)
        assert decode(path, 3, (4, 4)).shape == (4, 4, 3)

    def test_16_bits_of_pgm(self, tmp_path: Path) -> None:
        path = tmp_path / "a.pgm"
        path.write_bytes(b"P5 5 6 65535\n" + self.VALUES[..., 0].astype(">u2").tobytes())
        assert np.array_equal(decode(path, 1)[..., 0], self.VALUES[..., 0] >> 8)

    @pytest.mark.parametrize("values", [np.float32(0.5), np.int32(70_000), np.int32(-1)])
    def test_more_than_16_bits_are_refused(self, values: Any, tmp_path: Path) -> None:
        path = save(tmp_path / "a.tif", np.full((4, 4), values))
        with pytest.raises(BadInput, match=r"more than 16 bits a channel \([IF]\). Save it with 8 or 16\."):
            decode(path)


def test_damaged_tiff_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "a.tif", PIXELS[0], compression="tiff_lzw")
    content = bytearray(path.read_bytes())
    content[8:60] = b"\xff" * 52
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.tif cannot be decoded"):
        decode(path)
    assert capfd.readouterr() == ("", "")
