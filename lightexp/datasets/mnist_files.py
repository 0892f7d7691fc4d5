"""Base class of MNIST and Fashion-MNIST: reads the IDX files or the `.npz` archive."""

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

IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")


@settings_dataclass
class MnistFiles(Downloadable):
    """Grey images of 28x28 in 10 classes, in the files of MNIST; see `Downloadable`."""

    shape: ClassVar[tuple[int, ...]] = (28, 28, 1)
    base_url: ClassVar[str] = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
    archive: ClassVar[str | None] = None
    """Name of a `.npz` file that replaces the four IDX files."""
    digests: ClassVar[dict[str, str]]
    """Names of the files to download, with the SHA-256 that `fetch.download` takes."""
    package: ClassVar[str | None] = None
    """Name of the Debian package that contains the files."""

    def _describe_missing(self, folder: Path) -> str:
        if self.archive and os.path.isfile(folder / self.archive):
            return ""
        missing = ", ".join(name for name in IDX_FILES if not os.path.isfile(folder / name))
        return f"{missing} (or {self.archive})" if missing and self.archive else missing

    def _download(self, folder: Path) -> None:
        for name, sha256 in self.digests.items():
            if not os.path.isfile(folder / name):
                is_gzip = name.endswith(".gz")
                fetch.download(self.base_url + name, sha256, folder / name, self._advise(), unpack=is_gzip)

    def _read(self, folder: Path, remedy: str) -> TrainTestArrays:
        if self.archive and os.path.isfile(folder / self.archive):
            x, y, x_test, y_test = self._read_archive(folder / self.archive, remedy)
        else:
            paths = [folder / name for name in IDX_FILES]
            shapes = ((28, 28), (), (28, 28), ())
            with ThreadPoolExecutor(2) as pool:  # zlib releases the GIL
                x, y, x_test, y_test = pool.map(read_idx, paths, shapes, [remedy] * len(paths))
        return x[..., None], y, x_test[..., None], y_test

    def _read_archive(self, path: Path, remedy: str) -> TrainTestArrays:
        existing = npz.list_names(path, remedy)
        arrays = {name: npz.read_array(path, name, remedy) for name in ARRAY_NAMES if name in existing}
        for name in ARRAY_NAMES:
            if name not in arrays or arrays[name].dtype != np.uint8 or not arrays[name].size:
                raise BadInput(f"{path} holds no array {name} of bytes. {remedy}")
        return arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"]

    def _advise(self) -> str:
        install = f"To get it: apt-get install {self.package}, or put" if self.package else "To get it, put"
        files = self.archive or f"{IDX_FILES[0]} and the other three"
        return f"{install} {files} into FOLDER and set dataset.folder=FOLDER."
