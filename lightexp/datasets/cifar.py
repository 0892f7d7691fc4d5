"""What CIFAR-10 and CIFAR-100 share: the forms that their files come in, and how those are read."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.datasets import fetch, pickles
from lightexp.datasets.downloadable import Downloadable, TrainTestArrays

MAX_BYTES = 200_000_000
"""Bytes of the largest file, or of all that an archive holds."""
PIXELS = 3 * 32 * 32

_Part = tuple[NDArray[np.uint8], NDArray[np.integer]]  # images and labels


@dataclass(frozen=True)
class CifarFormat:
    """One of the forms in which the authors publish the data.

    Attributes:
        folder: Name of the folder that the archive unpacks to.
        archive: Name of the archive.
        files: The files in it, the one to test on last.
    """

    folder: str
    archive: str
    files: tuple[str, ...]


@settings_dataclass
class Cifar(Downloadable):
    """Colour images of 32x32, in the files of CIFAR's Python version or of its binary version; see `Published`.

    Pickles are read as data, so that no code in them runs.
    """

    shape: ClassVar[tuple[int, ...]] = (32, 32, 3)
    base_url: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/"
    python: ClassVar[CifarFormat]
    binary: ClassVar[CifarFormat]
    sha256: ClassVar[str]
    """Of the Python version's archive."""
    columns: ClassVar[tuple[str, ...]]
    """The labels of an image, as pickles name them and in the order of the binary version."""

    def _column(self) -> str:
        """Which of `columns` counts."""
        return self.columns[-1]

    def _source(self, folder: Path) -> tuple[CifarFormat, Path] | None:
        """Which form is there, and the folder or the archive that holds it."""
        for form in (self.python, self.binary):
            unpacked = f"{form.folder}-target"  # Keras 3's
            for place in (folder, folder / form.folder, folder / unpacked / form.folder):
                if all(os.path.isfile(place / name) for name in form.files):
                    return form, place
            for name in (form.archive, f"{form.folder}.tar.gz", f"{unpacked}.tar.gz", f"{unpacked}_archive"):
                if os.path.isfile(folder / name):
                    return form, folder / name
        return None

    def _missing(self, folder: Path) -> str:
        absent = [name for name in self.python.files if not os.path.isfile(folder / name)]
        return "" if self._source(folder) else f"{', '.join(absent)} (or {self.python.archive})"

    def _fetch(self, folder: Path) -> None:
        archive = folder / f"{self.python.folder}.tar.gz"  # as Keras 2 names it
        fetch.download(self.base_url + self.python.archive, self.sha256, archive, self._advice())

    def _read(self, folder: Path, remedy: str) -> TrainTestArrays:
        form, path = self._source(folder) or (self.python, folder)
        parts: dict[str, _Part] = {}
        try:
            for name, content in _contents(form, path):
                try:
                    parts[name] = self._pickled(content) if form is self.python else self._bare(content)
                except ValueError as error:
                    raise ValueError(f"in {name}, {error}") from None
            if absent := [name for name in form.files if name not in parts]:
                raise ValueError(f"it holds no {form.folder}/{absent[0]}")
        except Exception as error:  # on altered bytes gzip, zlib and tarfile raise a dozen kinds
            words = " ".join(str(error).split()) or type(error).__name__
            raise BadInput(f"{path} cannot be used: {words}. {remedy}") from None
        *train, test = (parts[name] for name in form.files)
        return *_together(train), *_together([test])

    def _pickled(self, content: bytes) -> _Part:
        whole = pickles.read_pickle(content)
        if not isinstance(whole, dict) or not {"data", self._column()} <= set(whole):
            raise ValueError(f"there is no dict of data and {self._column()}")
        x, y = pickles.decode_array(whole["data"]), whole[self._column()]
        if not isinstance(y, list) or not all(isinstance(label, int) for label in y):
            raise ValueError(f"{self._column()} is no list of whole numbers")
        return _part(x, np.array(y, np.int64))

    def _bare(self, content: bytes) -> _Part:
        size = len(self.columns) + PIXELS
        if not content or len(content) % size:
            raise ValueError(f"{len(content)} bytes are not whole images of {size}")
        rows = np.frombuffer(content, np.uint8).reshape(-1, size)
        return _part(rows[:, -PIXELS:], rows[:, self.columns.index(self._column())])

    def _advice(self) -> str:
        return (
            f"To get it, put {self.python.archive} or {self.binary.archive} from {self.base_url} into FOLDER, "
            "packed or unpacked, and set dataset.folder=FOLDER."
        )


def _part(x: NDArray[np.uint8], y: NDArray[np.integer]) -> _Part:
    if x.ndim != 2 or x.shape[1] != PIXELS or len(x) != len(y):
        raise ValueError(f"images of shape {x.shape} have {len(y)} labels")
    return x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), y


def _together(parts: list[_Part]) -> _Part:
    """Parts one after another, channels last in memory too."""
    x = np.empty((sum(len(y) for _, y in parts), *Cifar.shape), np.uint8)
    return np.concatenate([images for images, _ in parts], out=x), np.concatenate([labels for _, labels in parts])


def _contents(form: CifarFormat, path: Path) -> Iterator[tuple[str, bytes]]:
    """The files of a folder or an archive, each with its content; an archive's links are not followed."""
    if path.is_dir():
        for name in form.files:
            with (path / name).open("rb") as file:
                yield name, _Bounded(file).read(MAX_BYTES + 1)
        return
    wanted = {f"{form.folder}/{name}": name for name in form.files}
    with gzip.open(path) as unpacked:
        stream: Any = _Bounded(unpacked)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = wanted.pop(member.name.removeprefix("./"), "")
                plain = member.isreg() and not member.issparse()
                if name and plain and (content := archive.extractfile(member)):
                    yield name, content.read()
        while stream.read(1 << 20):  # at its end gzip compares the checksum
            pass


class _Bounded:
    """A stream that ends in an error where it goes on for longer than any file of these data."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._left = stream, MAX_BYTES

    def read(self, size: int) -> bytes:
        content: bytes = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"there are more than {MAX_BYTES} bytes")
        return content
