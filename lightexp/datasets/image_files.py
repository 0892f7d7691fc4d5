"""What MNIST and Fashion-MNIST share: where their files may be, and how they are read and split."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import Index
from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.datasets import fetch, npz
from lightexp.datasets.idx import read_idx
from lightexp.datasets.inputs import InputDataset
from lightexp.datasets.splits import as_split, fifth, hold_out

SYSTEM = (Path("/usr/local/share/datasets"), Path("/usr/share/datasets"))
"""Where system packages put data sets, each in a folder of its own."""

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
IDX = tuple(f"{part}.gz" for part in PARTS)


@dataclass(frozen=True)
class ImageFiles(InputDataset):
    """Images of 28x28 bytes in 10 classes, in the files of MNIST.

    Looked for in the user's folder alone if one is named, else in system folders and in Keras' cache; fetched into that
    cache if they are nowhere. Of 60,000 training images 10,000 are held out for validation, else a fifth.

    Attributes:
        split_seed: Decides which training examples are held out for validation.
        folder: A folder that holds the files; None to search for them.
    """

    title: ClassVar[str]
    """The data set's name in configs, records and folders."""
    system: ClassVar[str]
    """Name of its folder below `SYSTEM`."""
    cache: ClassVar[str] = ""
    """Name of its folder in Keras' cache, if it has one of its own."""
    archive: ClassVar[str | None] = None
    """A `.npz` file that may stand for the four others."""
    sums: ClassVar[dict[str, str]]
    """The files that are fetched, with their SHA-256 as `fetch.download` takes it."""
    package: ClassVar[str | None] = None
    """The Debian package that holds it."""

    split_seed: Index = 0
    folder: str | None = None

    def check(self) -> None:
        """Checks that the files are somewhere or that their server can be reached; takes half a second at most.

        Raises:
            BadInput: If files are missing in the user's folder, or are nowhere and this machine is offline.
        """
        if self._found() is None and not fetch.reachable():
            places = [str(p) for p in (*(root / self.system for root in SYSTEM), self._cached())]
            raise BadInput(
                f"dataset={self.title} is not on this machine (looked in {', '.join(places)}) and its server "
                f"cannot be reached. {self._advice()}"
            )

    def load(self) -> Data:
        """Reads and splits the images, fetching them first if they are nowhere.

        Raises:
            BadInput: If they cannot be had, or a file is damaged.
        """
        folder = self._found()
        if folder is None:
            folder = self._cached()
            for name, sha256 in self.sums.items():
                if not os.path.isfile(folder / name):
                    fetch.download(name, sha256, folder, self._advice())
        remedy = "Delete it: it is fetched again." if folder == self._cached() else "Put a good copy in its place."
        x, y, x_test, y_test = self._read(folder, remedy)
        for images, labels, part in ((x, y, "training"), (x_test, y_test, "test")):
            if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or labels.max() > 9:
                raise BadInput(
                    f"{folder} holds {part} images of shape {images.shape} with labels of shape {labels.shape} up to "
                    f"{labels.max()}; {self.title} has 28x28 images, each with a label of 0 to 9. {remedy}"
                )
        train, val = hold_out(as_split(x[..., None], y), 10_000 if len(y) == 60_000 else fifth(len(y)), self.split_seed)
        return self.data(self.title, train, val, as_split(x_test[..., None], y_test), classes=10, top=255)

    def _found(self) -> Path | None:
        """The folder that holds all files, or None if they must be fetched."""
        if self.folder is not None:
            folder = Path(os.path.expanduser(self.folder))
            if missing := self._missing(folder):
                instead = f" (or {self.archive})" if self.archive else ""
                raise BadInput(f"dataset.folder={self.folder} lacks {', '.join(missing)}{instead}. {self._advice()}")
            return folder
        places = [*(root / self.system for root in SYSTEM), self._cached()]
        return next((place for place in places if not self._missing(place)), None)

    def _missing(self, folder: Path) -> list[str]:
        if self.archive and os.path.isfile(folder / self.archive):
            return []
        return [name for name in IDX if not os.path.isfile(folder / name)]

    def _cached(self) -> Path:
        return fetch.keras_folder() / self.cache

    def _read(self, folder: Path, remedy: str) -> list[NDArray[np.uint8]]:
        if self.archive and os.path.isfile(folder / self.archive):
            return self._read_archive(folder / self.archive, remedy)
        shapes = ((28, 28), (), (28, 28), ())
        with ThreadPoolExecutor(2) as pool:  # zlib lets go of the interpreter
            return list(pool.map(read_idx, (folder / name for name in IDX), shapes, [remedy] * len(IDX)))

    def _read_archive(self, path: Path, remedy: str) -> list[NDArray[np.uint8]]:
        there = npz.names(path, remedy)
        arrays: list[NDArray[np.uint8]] = []
        for name in ARRAYS:
            array = npz.read(path, name, remedy) if name in there else None
            if array is None or array.dtype != np.uint8 or not array.size:
                raise BadInput(f"{path} holds no array {name} of bytes. {remedy}")
            arrays.append(array.astype(np.uint8, copy=False))
        return arrays

    def _advice(self) -> str:
        install = f"To get it: apt-get install {self.package}, or put" if self.package else "To get it, put"
        return f"{install} {self.archive or f'{IDX[0]} and the other three'} into FOLDER and set dataset.folder=FOLDER."
