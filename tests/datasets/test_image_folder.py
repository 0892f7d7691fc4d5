"""Tests of the data set of a user's images: layouts, formats and damaged files."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lightexp.core.config import build
from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.core.fingerprint import compute_key
from lightexp.core.preprocessing import Augment, Scaling
from lightexp.core.protocols import Dataset
from lightexp.core.streamed_array import StreamedArray
from lightexp.datasets import image_reader
from lightexp.datasets.image_folder import ImageFolder
from lightexp.datasets.image_reader import ImageReader
from lightexp.datasets.images import ImageFormat, strict_warnings
from tests.datasets.image_files import PIXELS, save


def fill(folder: Path, start: int = 0, count: int = 10, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Write images, a row of `PIXELS` each, class by class."""
    for number, name in enumerate(classes):
        for i in range(count):
            save(folder / name / f"{i:03}.png", PIXELS[start + number * count + i])
    return folder


def refusal(load: Callable[[], Any]) -> str:
    """Return the one-line message with which a folder is refused."""
    with pytest.raises(BadInput) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def load(folder: Path, **fields: Any) -> Data:
    return ImageFolder(str(folder), **fields).load()


def test_load_splits_classes_in_three(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", count=25)
    dataset = ImageFolder(str(folder))
    assert dataset.check() == folder
    data = dataset.load()
    assert (data.name, data.classes, data.shape, data.scale, data.offset) == ("pets", 2, (12, 10, 3), 1 / 255, 0.0)
    splits = data.splits.values()
    assert [len(split) for split in splits] == [32, 8, 10]
    labels = {image.tobytes(): int(label) for split in splits for image, label in zip(split.x, split.y, strict=True)}
    assert labels == {PIXELS[i].tobytes(): i // 25 for i in range(50)}
    assert all(np.ptp(np.bincount(split.y)) == 0 for split in splits)
    assert dataset.load().key == data.key
    assert load(folder, split_seed=1).key != data.key


def test_load_keeps_existing_splits(tmp_path: Path) -> None:
    for part, start in (("train", 0), ("val", 20), ("test", 40)):
        fill(tmp_path / part, start)
    data = load(tmp_path)
    assert [split.x.tobytes() for split in data.splits.values()] == [
        PIXELS[start : start + 20].tobytes() for start in (0, 20, 40)
    ]
    assert data.test.y.tolist() == [0] * 10 + [1] * 10


@pytest.mark.parametrize(("part", "other"), [("val", "test"), ("test", "val")])
def test_load_holds_out_missing_split_only(part: str, other: str, tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / part, 20, 3, ("dog",))  # a class may be absent
    data = load(tmp_path)
    assert data.splits[part].y.tolist() == [1] * 3
    assert (len(data.splits[other]), len(data.train)) == (4, 16)


def test_classes_without_a_folder_have_no_example(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", classes=("dog", "cat"))
    data = load(folder, classes=["ant", "cat", "bee", "dog"])
    assert (data.classes, data.names) == (4, ("ant", "cat", "bee", "dog"))
    assert set(data.train.y.tolist()) == {1, 3}
    assert data.notes == ("No training example has class 0, 2 of 4.",)
    numbered = load(fill(tmp_path / "numbered", classes=("1", "10")), classes=11)
    assert set(numbered.train.y.tolist()) == {1, 10}
    for classes, missing in ((["cat", "dgo"], "dog"), (7, "cat")):
        message = refusal(ImageFolder(str(folder), classes=classes).check)  # type: ignore[arg-type]
        assert f"has no class {missing}, which is a folder. Name all classes" in message
    both = ImageFolder(str(folder), classes=["cat", "dog"], labels="labels.csv")
    assert "dataset.classes has no effect with dataset.labels" in refusal(both.check)
    assert "names a class twice" in refusal(ImageFolder(str(folder), classes=["cat", "cat", "dog"]).check)


def test_class_named_like_a_split_loads(tmp_path: Path) -> None:
    assert load(fill(tmp_path, classes=("plane", "test", "train"))).classes == 3


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    fill(tmp_path)
    expected = load(tmp_path).key
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "cat/.DS_Store", "dog/Thumbs.db", "dog/._000.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert load(tmp_path).key == expected


def test_data_on_disk_equal_data_in_memory(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    memory, disk = load(folder, size=[250, 200]), load(folder, size=[250, 200], memory_mb=1)
    assert isinstance(disk.train.x, np.memmap)
    assert not isinstance(memory.train.x, np.memmap)
    assert (disk.key, disk.test.digest) == (memory.key, memory.test.digest)
    stream = load(folder, size=[250, 200], memory_mb=1, disk_gb=1e-6)
    assert isinstance(stream.train.x, StreamedArray)
    assert (stream.key, stream.test.digest) == (memory.key, memory.test.digest)
    assert np.array_equal(stream.val.sample(2), memory.val.sample(2))
    assert compute_key(ImageFolder("a")) == compute_key(ImageFolder("a", memory_mb=1))


def test_settings_are_applied(tmp_path: Path) -> None:
    node = {"_target_": "lightexp.datasets.image_folder.ImageFolder", "path": str(fill(tmp_path)), "channels": 1}
    build(node, Dataset, "dataset").load()  # type: ignore[type-abstract]
    for bad in ({"channels": 2}, {"size": [8]}, {"size": [0, 8]}, {"size": [8, 100_000]}, {"memory_mb": 0}):
        assert refusal(lambda bad=bad: build({**node, **bad}, Dataset, "dataset")).startswith("dataset.")  # type: ignore[misc]
    data = load(tmp_path, scaling=Scaling(range=[-1.0, 1.0]), augment=Augment(flip=True))
    assert data.augment.flip
    assert data.inputs(data.train.x).min() < -0.9


class TestUnusableFolders:
    """Each is refused in one line that names the file."""

    def test_missing_folder_is_refused(self, tmp_path: Path) -> None:
        for path in (str(tmp_path / "none"), __file__, "", "\0", "a\nb"):
            assert "is not a folder. Set dataset.path=FOLDER" in refusal(ImageFolder(path).check)
        assert "dataset.path=FOLDER" in refusal(ImageFolder().check)

    @pytest.mark.parametrize("part", ["", "train"])
    def test_fewer_than_two_classes_are_refused(self, part: str, tmp_path: Path) -> None:
        (tmp_path / "none").mkdir()
        assert "Received: 0." in refusal(ImageFolder(str(tmp_path / "none")).check)
        fill(tmp_path / "one" / part, classes=("cat",))
        assert "Received: 1." in refusal(ImageFolder(str(tmp_path / "one")).check)

    def test_stray_files_are_refused(self, tmp_path: Path) -> None:
        fill(tmp_path)
        stray = tmp_path / "labels.csv"
        stray.write_text("a")
        assert refusal(ImageFolder(str(tmp_path)).check).startswith(f"{stray} is not a folder of a class.")
        stray.rename(tmp_path / "dog" / "labels.csv")
        assert f"{tmp_path}/dog/labels.csv is not an image file (.bmp" in refusal(lambda: load(tmp_path))
        (tmp_path / "dog" / "labels.csv").unlink()
        (tmp_path / "dog" / "more.png").mkdir()
        assert f"{tmp_path}/dog/more.png is not an image file" in refusal(lambda: load(tmp_path))

    def test_pipe_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(fill(tmp_path) / "cat" / "pipe.png")
        assert "pipe.png is not an image file" in refusal(lambda: load(tmp_path))

    def test_other_folder_next_to_splits_is_refused(self, tmp_path: Path) -> None:
        fill(tmp_path / "train")
        fill(tmp_path / "valid")
        assert f"{tmp_path}/valid is not a split, but is next to one" in refusal(ImageFolder(str(tmp_path)).check)

    def test_missing_train_is_refused(self, tmp_path: Path) -> None:
        fill(tmp_path / "test")
        fill(tmp_path / "val")
        assert "holds test, val but no folder train" in refusal(ImageFolder(str(tmp_path)).check)

    def test_class_missing_in_train_is_refused(self, tmp_path: Path) -> None:
        fill(tmp_path / "train")
        fill(tmp_path / "test", 20, classes=("cat", "dogs"))
        line = refusal(lambda: load(tmp_path))
        assert line == f"{tmp_path}/test/dogs is a class that is not in train/: did you mean 'dog'?"

    @pytest.mark.parametrize("part", ["train/bird", "val/cat"])
    def test_folder_without_images_is_refused(self, part: str, tmp_path: Path) -> None:
        fill(tmp_path / "train")
        (tmp_path / part).mkdir(parents=True)
        message = f"{tmp_path}/train/bird holds no" if part == "train/bird" else "The folders of val/ hold no"
        assert message in refusal(lambda: load(tmp_path))

    def test_too_few_images_are_refused(self, tmp_path: Path) -> None:
        assert "too few examples" in refusal(lambda: load(fill(tmp_path, count=1)))

    def test_different_sizes_are_refused(self, tmp_path: Path) -> None:
        save(fill(tmp_path) / "dog" / "wide.png", PIXELS[0].transpose(1, 0, 2))
        line = refusal(lambda: load(tmp_path))
        assert f"{tmp_path}/dog/wide.png is 10 pixels high and 12 wide, {tmp_path}/cat/" in line
        assert "12 pixels high and 10 wide. To resize all images, set dataset.size=[HEIGHT,WIDTH]." in line
        assert load(tmp_path, size=[8, 9]).shape == (8, 9, 3)

    def test_message_escapes_file_names(self, tmp_path: Path) -> None:
        (fill(tmp_path) / "dog" / "a\nb\udcff.png").write_bytes(b"")
        line = refusal(lambda: load(tmp_path))
        assert r"dog/a\nb\udcff.png is damaged" in line
        assert line.isprintable()


def make_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def make_png(width: int, height: int) -> bytes:
    """Return a PNG whose header announces a size, with few pixels."""
    start = make_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + make_chunk(b"IDAT", zlib.compress(bytes(1000))) + make_chunk(b"IEND", b"")


def encode(suffix: str) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(PIXELS[0])
    exif = Image.Exif()
    exif[0x0112] = 3
    image.save(file, suffix, **({"exif": exif} if suffix in ("png", "jpeg", "webp") else {}))
    return file.getvalue()


class TestDamagedFiles:
    """The message names the damaged file, and no warning of Pillow appears (pytest makes warnings errors)."""

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is damaged or not an image"),
            (b"<html>", "is damaged or not an image"),
            (b"II*\0" + bytes(100), "is damaged or not an image"),  # TIFF
            (encode("png")[:200], "cannot be decoded"),
            (encode("jpeg")[:-50], "cannot be decoded: image file is truncated"),
            (make_png(60_000, 60_000), "exceeds limit of"),  # Pillow's error
            (make_png(10_000, 9_500), "exceeds limit of"),  # Pillow's warning
            (make_png(9_000, 9_000), "cannot be decoded"),
            (make_png(0, 0), "is damaged or not an image"),
        ],
    )
    @pytest.mark.parametrize("name", ["000.png", "zzz.jpg"])
    def test_message_names_damaged_file(self, content: bytes, message: str, name: str, tmp_path: Path) -> None:
        path = fill(tmp_path, count=3) / "dog" / name
        path.write_bytes(content)
        for fields in ({}, {"size": [8, 8]}):
            line = refusal(lambda fields=fields: load(tmp_path, **fields))  # type: ignore[misc]
            assert line.startswith(f"{path} ")
            assert message in line
            assert line.endswith("Replace it or delete it.")

    def test_broken_link_is_refused(self, tmp_path: Path) -> None:
        (fill(tmp_path) / "cat" / "000.png").unlink()
        (tmp_path / "cat" / "000.png").symlink_to(tmp_path / "missing.png")
        assert "cat/000.png is not an image file" in refusal(lambda: load(tmp_path))

    @pytest.mark.parametrize("suffix", ["png", "jpeg", "bmp", "gif", "webp", "ppm", "tiff"])
    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data(), cut=st.booleans())
    def test_altered_bytes_are_refused_or_read(self, suffix: str, data: Any, cut: bool, tmp_path: Path) -> None:
        content = bytearray(encode(suffix))
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 100))
            content[at] = data.draw(st.integers(0, 255))
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))] if cut else content)
        line = ""
        try:
            with strict_warnings():
                array = ImageReader(lambda _: [(path, str(path))], ImageFormat(3, (6, 6))).read(np.zeros(1, np.intp))
        except BadInput as error:
            line = str(error)
        else:
            assert array.shape == (1, 6, 6, 3)
        assert "\n" not in line


def test_small_images_that_decode_to_much_are_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(5):
            save(tmp_path / name / f"{number}.png", np.zeros((500, 500), np.uint8))
    with pytest.raises(BadInput, match=r"unpacks to 7\.5 MB or more; the limit is 5\.0 MB.*set dataset\.max_gb"):
        load(tmp_path, max_gb=0.005)
    assert load(tmp_path, max_gb=0.005, size=[8, 8]).shape == (8, 8, 3)
    assert load(tmp_path, max_gb=0.008).shape == (500, 500, 3)


def test_progress_bar_appears_after_delay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(fill(tmp_path))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(image_reader, "BAR_DELAY_S", -1.0)
    load(tmp_path)
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading images" in err
    assert "20/20" in err


@pytest.mark.slow
def test_run_from_command_line(tmp_path: Path) -> None:
    for i in range(60):
        save(tmp_path / "mine" / ("bright" if i % 2 else "dark") / f"{i}.png", PIXELS[i, :, :, 0] // 2 + i % 2 * 120)
    dataset = ["dataset=image_folder", "dataset.path=mine", "dataset.channels=1", "dataset.size=[12,12]"]
    small = ["pipeline=control", "pipeline.stages.train.epochs=1", "model.width=0.25", "measure=quick", "tracking=none"]
    command = [sys.executable, "-m", "lightexp.cli", "run", *dataset, *small, "runtime.threads=1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train (control)" in done.stdout
    (tmp_path / "mine" / "dark" / "0.png").write_bytes(b"")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("lightexp: mine/dark/0.png is damaged")
    assert done.stderr.count("\n") == 1
