"""What data sets have in common that everybody can get: where they may be, how they are fetched, how they are split."""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import Index, settings_dataclass
from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.datasets import fetch
from lightexp.datasets.base import InputDataset
from lightexp.datasets.splits import count_fifth, hold_out, make_split

SYSTEM_FOLDERS = (Path("/usr/local/share/datasets"), Path("/usr/share/datasets"))
"""Where system packages put data sets, each in a folder of its own."""

TrainTestArrays = tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.generic], NDArray[np.generic]]
"""Images and labels to train on, images and labels to test on."""


@settings_dataclass
class Downloadable(InputDataset):
    """Images of bytes with a test split of their own.

    Looked for in the user's folder alone if one is named, else in system folders and in Keras' cache; fetched into that
    cache if they are nowhere. Of 60,000 training images 10,000 are held out for validation, else a fifth.

    Attributes:
        split_seed: Decides which training examples are held out for validation.
        folder: A folder that holds the files; None to search for them.
    """

    title: ClassVar[str]
    """The data set's name in configs, records and folders."""
    names: ClassVar[tuple[str, ...]] = ()
    """Of the classes, if numbers are not names enough."""
    shape: ClassVar[tuple[int, ...]]
    """Of one image."""
    base_url: ClassVar[str]
    """The address that its files are below."""
    system_folder: ClassVar[str]
    """Name of its folder below `SYSTEM`."""
    cache_folder: ClassVar[str] = ""
    """Name of its folder in Keras' cache, if it has one of its own."""

    split_seed: Index = 0
    folder: str | None = None

    def check(self) -> Path | None:
        """Checks that the files are somewhere or that their server can be reached; takes half a second at most.

        Returns:
            The folder that holds them; None if they are to be fetched.

        Raises:
            BadInput: If files are missing in the user's folder, or are nowhere and this machine is offline.
        """
        found = self._found()
        if found is None and not fetch.is_reachable(self.base_url):
            raise BadInput(
                f"dataset={self.title} is not on this machine (looked in {', '.join(map(str, self._places()))}) and "
                f"its server cannot be reached. {self._advice()}"
            )
        return found

    def load(self) -> Data:
        """Reads and splits the images, fetching them first if they are nowhere.

        Raises:
            BadInput: If they cannot be had, or a file is damaged.
        """
        cache = self._places()[-1]
        folder = self._found()
        if folder is None:
            folder = cache
            self._fetch(folder)
        remedy = "Delete it: it is fetched again." if folder == cache else "Put a good copy in its place."
        x, y, x_test, y_test = self._read(folder, remedy)
        for images, labels, part in ((x, y, "training"), (x_test, y_test, "test")):
            known = 0 <= labels.min() <= labels.max() < self._classes()
            if images.shape[1:] != self.shape or labels.shape != images.shape[:1] or not known:
                raise BadInput(
                    f"{folder} holds {part} images of shape {images.shape} with labels of shape {labels.shape} up to "
                    f"{labels.max()}; {self.title} has {'x'.join(map(str, self.shape[:2]))} images, each with a label "
                    f"of 0 to {self._classes() - 1}. {remedy}"
                )
        train, val = hold_out(make_split(x, y), 10_000 if len(y) == 60_000 else count_fifth(len(y)), self.split_seed)
        data = self.make_data(self.title, train, val, make_split(x_test, y_test), self._classes(), top=255)
        return replace(data, names=self.names)

    def _places(self) -> list[Path]:
        """Where it may be; the last is where it is fetched to."""
        return [*(root / self.system_folder for root in SYSTEM_FOLDERS), fetch.get_keras_folder() / self.cache_folder]

    def _found(self) -> Path | None:
        """The folder that holds all files, or None if they must be fetched."""
        if self.folder is not None:
            folder = Path(os.path.expanduser(self.folder))
            if missing := self._missing(folder):
                raise BadInput(f"dataset.folder={self.folder} lacks {missing}. {self._advice()}")
            return folder
        return next((place for place in self._places() if not self._missing(place)), None)

    def _classes(self) -> int:
        return 10

    @abstractmethod
    def _missing(self, folder: Path) -> str:
        """What is not there, in words; nothing where all is."""

    @abstractmethod
    def _fetch(self, folder: Path) -> None:
        """Fetches what is not there."""

    @abstractmethod
    def _read(self, folder: Path, remedy: str) -> TrainTestArrays:
        """Reads the files, or raises BadInput that ends in `remedy`."""

    @abstractmethod
    def _advice(self) -> str:
        """How the user gets the files, as a sentence."""
