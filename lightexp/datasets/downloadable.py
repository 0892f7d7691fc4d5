"""Base class of public image data sets: finds their files, downloads them if necessary, and splits them."""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import settings_dataclass
from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.datasets import fetch
from lightexp.datasets.base import InputDataset
from lightexp.datasets.splits import count_fifth, hold_out, make_split

SYSTEM_FOLDERS = (Path("/usr/local/share/datasets"), Path("/usr/share/datasets"))
"""Where system packages install data sets, each in its own folder."""

TrainTestArrays = tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.generic], NDArray[np.generic]]
"""Training images and labels, test images and labels."""


@settings_dataclass
class Downloadable(InputDataset):
    """A public data set of uint8 images, whose authors define the test split.

    Its files are searched for in `folder` only if that is set, else in system folders and in Keras' cache, and
    downloaded to that cache if they are in none. Of 60,000 training images 10,000 are held out for validation, else a
    fifth.

    Attributes:
        folder: Folder that holds the files; None to search for them.
    """

    title: ClassVar[str]
    """Name of the data set in configs, records and folders."""
    names: ClassVar[tuple[str, ...]] = ()
    """Names of the classes; empty to number them."""
    shape: ClassVar[tuple[int, ...]]
    """Shape of an image."""
    base_url: ClassVar[str]
    """URL of the folder that holds its files."""
    system_folder: ClassVar[str]
    """Name of its folder in `SYSTEM_FOLDERS`."""
    cache_folder: ClassVar[str] = ""
    """Name of its folder in Keras' cache; empty if its files are not in a folder."""

    folder: str | None = None

    def check(self) -> Path | None:
        """Check that the files exist or that their server can be reached; takes half a second at most.

        Returns:
            Folder that holds the files; None if they must be downloaded.

        Raises:
            BadInput: If files are missing in the user's folder, or are nowhere and this machine is offline.
        """
        folder = self._find_folder()
        if folder is None and not fetch.is_reachable(self.base_url):
            searched = ", ".join(map(str, self._list_places()))
            raise BadInput(
                f"dataset={self.title} is not on this machine (looked in {searched}) and its server cannot be reached. "
                f"{self._advise()}"
            )
        return folder

    def load(self) -> Data:
        """Read and split the images, after downloading them if necessary.

        Returns:
            The data set.

        Raises:
            BadInput: If they cannot be downloaded, or a file is damaged.
        """
        cache = self._list_places()[-1]
        folder = self._find_folder()
        if folder is None:
            folder = cache
            self._download(folder)
        remedy = "Delete it: it is fetched again." if folder == cache else "Put a good copy in its place."
        x, y, x_test, y_test = self._read(folder, remedy)
        for images, labels, part in ((x, y, "training"), (x_test, y_test, "test")):
            has_known_labels = 0 <= labels.min() <= labels.max() < self._count_classes()
            if images.shape[1:] != self.shape or labels.shape != images.shape[:1] or not has_known_labels:
                raise BadInput(
                    f"{folder} holds {part} images of shape {images.shape} with labels of shape {labels.shape} up to "
                    f"{labels.max()}; {self.title} has {'x'.join(map(str, self.shape[:2]))} images, each with a label "
                    f"of 0 to {self._count_classes() - 1}. {remedy}"
                )
        val_count = 10_000 if len(y) == 60_000 else count_fifth(len(y))
        train, val = hold_out(make_split(x, y), val_count, self.split_seed)
        data = self.make_data(self.title, train, val, make_split(x_test, y_test), self._count_classes(), top=255)
        return replace(data, names=self.names)

    def _list_places(self) -> list[Path]:
        """Return the folders to search; the last is the one to download to."""
        return [
            *(root / self.system_folder for root in SYSTEM_FOLDERS),
            fetch.get_keras_folder() / self.cache_folder,
        ]

    def _find_folder(self) -> Path | None:
        """Return the folder that holds all files, or None if they must be downloaded."""
        if self.folder is not None:
            folder = Path(os.path.expanduser(self.folder))
            if missing := self._describe_missing(folder):
                raise BadInput(f"dataset.folder={self.folder} lacks {missing}. {self._advise()}")
            return folder
        return next((place for place in self._list_places() if not self._describe_missing(place)), None)

    def _count_classes(self) -> int:
        return 10

    @abstractmethod
    def _describe_missing(self, folder: Path) -> str:
        """Return the names of the files that a folder lacks, for a message; empty if it holds all."""

    @abstractmethod
    def _download(self, folder: Path) -> None:
        """Download the files that a folder lacks."""

    @abstractmethod
    def _read(self, folder: Path, remedy: str) -> TrainTestArrays:
        """Read the files.

        Raises:
            BadInput: If a file is damaged; the message ends with `remedy`.
        """

    @abstractmethod
    def _advise(self) -> str:
        """Return a sentence that says how the user can get the files."""
