"""What MNIST and Fashion-MNIST share: their files, and how they are read."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np

from lightexp.core.config import settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.datasets import fetch, npz
from lightexp.datasets.downloadable import Downloadable, TrainTestArrays
from lightexp.datasets.idx import read_idx

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
IDX_FILES = tuple(f"{part}.gz" for part in PARTS)


@settings_dataclass
class MnistFiles(Downloadable):
    """Images of 28x28 bytes in 10 classes, in the files of MNIST; see `Published`."""

    shape: ClassVar[tuple[int, ...]] = (28, 28, 1)
    base_url: ClassVar[str] = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
    archive: ClassVar[str | None] = None
    """A `.npz` file that may stand for the four others."""
    digests: ClassVar[dict[str, str]]
    """The files that are fetched, with their SHA-256 as `fetch.download` takes it."""
    package: ClassVar[str | None] = None
    """The Debian package that holds it."""

    def _missing(self, folder: Path) -> str:
        if self.archive and os.path.isfile(folder / self.archive):
            return ""
        missing = ", ".join(name for name in IDX_FILES if not os.path.isfile(folder / name))
        return f"{missing} (or {self.archive})" if missing and self.archive else missing

    def _fetch(self, folder: Path) -> None:
        for name, sha256 in self.digests.items():
            if not os.path.isfile(folder / name):
                fetch.download(self.base_url + name, sha256, folder / name, self._advice(), unpack=name.endswith(".gz"))

    def _read(self, folder: Path, remedy: str) -> TrainTestArrays:
        if self.archive and os.path.isfile(folder / self.archive):
            x, y, x_test, y_test = self._read_archive(folder / self.archive, remedy)
        else:
            shapes = ((28, 28), (), (28, 28), ())
            with ThreadPoolExecutor(2) as pool:  # zlib lets go of the interpreter
                x, y, x_test, y_test = pool.map(
                    read_idx, (folder / n for n in IDX_FILES), shapes, [remedy] * len(IDX_FILES)
                )
        return x[..., None], y, x_test[..., None], y_test

    def _read_archive(self, path: Path, remedy: str) -> TrainTestArrays:
        there = npz.list_names(path, remedy)
        arrays = {name: npz.read_array(path, name, remedy) for name in ARRAYS if name in there}
        for name in ARRAYS:
            if name not in arrays or arrays[name].dtype != np.uint8 or not arrays[name].size:
                raise BadInput(f"{path} holds no array {name} of bytes. {remedy}")
        return arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"]

    def _advice(self) -> str:
        install = f"To get it: apt-get install {self.package}, or put" if self.package else "To get it, put"
        files = self.archive or f"{IDX_FILES[0]} and the other three"
        return f"{install} {files} into FOLDER and set dataset.folder=FOLDER."
