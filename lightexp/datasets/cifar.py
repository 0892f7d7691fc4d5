"""Base class of CIFAR-10 and CIFAR-100: reads the files of their Python and binary versions."""

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
from lightexp.core.regular_files import open_regular
from lightexp.datasets import fetch, pickles
from lightexp.datasets.downloadable import Downloadable, TrainTestArrays

MAX_BYTES = 200_000_000
"""Size limit of a file, and of an archive's total content."""
IMAGE_BYTES = 3 * 32 * 32

_Batch = tuple[NDArray[np.uint8], NDArray[np.integer]]  # images and labels


@dataclass(frozen=True)
class CifarFormat:
    """The file names of one of the versions that the authors publish.

    Attributes:
        folder: Name of the folder in the archive.
        archive: Name of the archive.
        files: Names of the files in the folder; the last is the test split.
    """

    folder: str
    archive: str
    files: tuple[str, ...]


@settings_dataclass
class Cifar(Downloadable):
    """Colour images of 32x32 in the files of CIFAR's Python or binary version; see `Downloadable`.

    Code in pickles does not run; see `pickles`.
    """

    shape: ClassVar[tuple[int, ...]] = (32, 32, 3)
    base_url: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/"
    python: ClassVar[CifarFormat]
    binary: ClassVar[CifarFormat]
    sha256: ClassVar[str]
    """SHA-256 of the Python version's archive."""
    columns: ClassVar[tuple[str, ...]]
    """Names of an image's labels in the pickles, in the order of the binary version."""

    def _label_column(self) -> str:
        """Return which of `columns` holds the labels."""
        return self.columns[-1]

    def _find_source(self, folder: Path) -> tuple[CifarFormat, Path] | None:
        """Return the format of the files in a folder, and the folder or archive that holds them."""
        for form in (self.python, self.binary):
            unpacked = f"{form.folder}-target"  # Keras 3's name
            for place in (folder, folder / form.folder, folder / unpacked / form.folder):
                if all(os.path.isfile(place / name) for name in form.files):
                    return form, place
            for name in (form.archive, f"{form.folder}.tar.gz", f"{unpacked}.tar.gz", f"{unpacked}_archive"):
                if os.path.isfile(folder / name):
                    return form, folder / name
        return None

    def _describe_missing(self, folder: Path) -> str:
        if self._find_source(folder):
            return ""
        absent = [name for name in self.python.files if not os.path.isfile(folder / name)]
        return f"{', '.join(absent)} (or {self.python.archive})"

    def _download(self, folder: Path) -> None:
        archive = folder / f"{self.python.folder}.tar.gz"  # Keras 2's name
        fetch.download(self.base_url + self.python.archive, self.sha256, archive, self._advise())

    def _read(self, folder: Path, remedy: str) -> TrainTestArrays:
        form, path = self._find_source(folder) or (self.python, folder)
        batches: dict[str, _Batch] = {}
        try:
            for name, content in _iterate_files(form, path):
                try:
                    batches[name] = self._parse_pickle(content) if form is self.python else self._parse_binary(content)
                except ValueError as error:
                    raise ValueError(f"in {name}, {error}") from None
            if absent := [name for name in form.files if name not in batches]:
                raise ValueError(f"it holds no {form.folder}/{absent[0]}")
        except Exception as error:  # on altered bytes gzip, zlib and tarfile raise a dozen kinds
            message = " ".join(str(error).split()) or type(error).__name__
            raise BadInput(f"{path} cannot be used: {message}. {remedy}") from None
        *train, test = (batches[name] for name in form.files)
        return *_concatenate(train), *_concatenate([test])

    def _parse_pickle(self, content: bytes) -> _Batch:
        column = self._label_column()
        batch = pickles.read_pickle(content)
        if not isinstance(batch, dict) or not {"data", column} <= set(batch):
            raise ValueError(f"there is no dict of data and {column}")
        x, y = pickles.decode_array(batch["data"]), batch[column]
        if not isinstance(y, list) or not all(isinstance(label, int) for label in y):
            raise ValueError(f"{column} is no list of whole numbers")
        return _make_batch(x, np.array(y, np.int64))

    def _parse_binary(self, content: bytes) -> _Batch:
        size = len(self.columns) + IMAGE_BYTES
        if not content or len(content) % size:
            raise ValueError(f"{len(content)} bytes are not whole images of {size}")
        rows = np.frombuffer(content, np.uint8).reshape(-1, size)
        return _make_batch(rows[:, -IMAGE_BYTES:], rows[:, self.columns.index(self._label_column())])

    def _advise(self) -> str:
        return (
            f"To get it, put {self.python.archive} or {self.binary.archive} from {self.base_url} into FOLDER, "
            "packed or unpacked, and set dataset.folder=FOLDER."
        )


def _make_batch(x: NDArray[np.uint8], y: NDArray[np.integer]) -> _Batch:
    if x.ndim != 2 or x.shape[1] != IMAGE_BYTES or len(x) != len(y):
        raise ValueError(f"images of shape {x.shape} have {len(y)} labels")
    return x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), y


def _concatenate(batches: list[_Batch]) -> _Batch:
    """Concatenate batches into images that are channels-last in memory, too."""
    x = np.empty((sum(len(y) for _, y in batches), *Cifar.shape), np.uint8)
    return np.concatenate([images for images, _ in batches], out=x), np.concatenate([labels for _, labels in batches])


def _iterate_files(form: CifarFormat, path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files in a folder or an archive; links in an archive are not followed."""
    if path.is_dir():
        for name in form.files:
            with open_regular(path / name) as file:
                yield name, _LimitedStream(file).read(MAX_BYTES + 1)
        return
    names = {f"{form.folder}/{name}": name for name in form.files}
    with open_regular(path) as packed, gzip.open(packed) as unpacked:
        stream: Any = _LimitedStream(unpacked)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = names.pop(member.name.removeprefix("./"), "")
                is_plain = member.isreg() and not member.issparse()
                if name and is_plain and (content := archive.extractfile(member)):
                    yield name, content.read()
        while stream.read(1 << 20):  # gzip compares the checksum at the end of the file
            pass


class _LimitedStream:
    """A stream that raises an error after `MAX_BYTES` bytes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._remaining = MAX_BYTES

    def read(self, size: int) -> bytes:
        content: bytes = self._stream.read(size)
        self._remaining -= len(content)
        if self._remaining < 0:
            raise ValueError(f"there are more than {MAX_BYTES} bytes")
        return content
