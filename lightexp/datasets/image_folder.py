"""The user's own images, a folder for each class."""

from __future__ import annotations

import os
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from lightexp.core.config import Count, Index, settings_dataclass
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.datasets import images
from lightexp.datasets.base import InputDataset
from lightexp.datasets.images import format_path
from lightexp.datasets.splits import count_fifth, hold_out, make_split

PARTS = ("train", "val", "test")
_SIDES = Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=2, max_length=2)]
_CLUTTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"}
_LAYOUT = "Images go in PATH/<class>/, or in PATH/train/<class>/, PATH/val/<class>/ and PATH/test/<class>/"


@settings_dataclass
class ImageFolder(InputDataset):
    """Images in `PATH/<class>/`, or in `PATH/train/<class>/` with `val/` and `test/` beside `train/`.

    Classes are numbered in the order of their folders' names, those below `train/` where that is there. Where there is
    no test split a fifth is held out, and where there is no validation split a fifth of the rest. Raw pixels are uint8,
    `(n, height, width, channels)`; inputs are from 0 to 1. Of several frames the first counts, an EXIF orientation is
    applied, and transparency is dropped. Hidden files are passed over; any other that is no image is refused.

    Attributes:
        path: The folder.
        size: Height and width that all images are resized to, bilinear with antialiasing. Defaults to None: they are
            of one size already.
        channels: 3 for colour, 1 for grey. Defaults to 3.
        split_seed: Decides which images are held out.
        memory_mb: Megabytes; a split that is larger is kept on disk (in the folder that TMPDIR names) and streamed.
            Changes no result.
    """

    path: str | None = None
    size: _SIDES | None = None
    channels: Literal[1, 3] = 3
    split_seed: Index = 0
    memory_mb: Count = field(default=4096, metadata={"keyed": False})

    def check(self) -> Path:
        """Checks that there are folders of two classes at least, and nothing beside them; opens no image.

        Returns:
            The folder that holds them.

        Raises:
            BadInput: If there are not.
        """
        self._parts()
        return self._folder()

    def load(self) -> Data:
        """Reads and splits the images, with a progress bar on stderr where it takes long.

        Raises:
            BadInput: If a file is no image, or not of the size of the others, or a class has none.
            RunFailed: If neither memory nor disk has room for them.
        """
        parts = self._parts()
        classes = {folder.name: label for label, folder in enumerate(parts["train"])}
        files: list[Path] = []
        listed: dict[str, Split] = {}  # examples are places in `files`, so that what is split is decoded into its place
        for part, folders in parts.items():
            found = _labelled(folders, classes, part)
            listed[part] = make_split(np.arange(len(files), len(files) + len(found)), np.array([y for _, y in found]))
            files += [path for path, _ in found]
        for part in ("test", "val"):
            if part not in listed:
                rest = listed["train"]
                listed["train"], listed[part] = hold_out(rest, count_fifth(len(rest)), self.split_seed)
        kept = images.ImageFormat(self.channels, (self.size[0], self.size[1]) if self.size else None)
        arrays = images.decode_files([[files[i] for i in listed[part].x] for part in PARTS], kept, self.memory_mb * 1e6)
        train, val, test = (make_split(x, listed[part].y) for part, x in zip(PARTS, arrays, strict=True))
        data = self.make_data(self._folder().resolve().name or "images", train, val, test, len(classes), top=255)
        return replace(data, names=tuple(classes))

    def _folder(self) -> Path:
        if self.path is None:
            raise BadInput("dataset=image_folder needs a folder. Received: none. Set dataset.path=FOLDER")
        folder = os.path.expanduser(self.path)
        if not os.path.isdir(folder):
            raise BadInput(f"dataset.path={format_path(self.path)} is not a folder. Set dataset.path=FOLDER")
        return Path(folder)

    def _parts(self) -> dict[str, list[Path]]:
        """The class folders of each split that is there; `train` alone for all where nothing is split yet."""
        root = self._folder()
        inside = _folders(root)
        # without folders in it, `train` is a class of that name
        if not any(folder.name in PARTS and any(map(os.path.isdir, _entries(folder))) for folder in inside):
            parts = {"train": inside}
        else:
            if stray := [folder for folder in inside if folder.name not in PARTS]:
                raise BadInput(f"{format_path(stray[0])} stands beside the splits. {_LAYOUT}.")
            parts = {folder.name: _folders(folder) for folder in inside}
            if "train" not in parts:
                raise BadInput(f"{format_path(root)} holds {', '.join(parts)} but no folder train. {_LAYOUT}.")
        if (count := len(parts["train"])) < 2:
            raise BadInput(
                f"dataset.path={format_path(self.path)} needs folders of two classes or more. "
                f"Received: {count}. {_LAYOUT}."
            )
        return parts


def _labelled(folders: list[Path], classes: dict[str, int], part: str) -> list[tuple[Path, int]]:
    """The files of a split with their labels, class by class."""
    found: list[tuple[Path, int]] = []
    for folder in folders:
        if folder.name not in classes:
            hint = suggest_nearest(format_path(folder.name), classes)
            raise BadInput(f"{format_path(folder)} is a class that is not in train/: {hint}")
        files = _files(folder)
        if not files and part == "train":
            raise BadInput(f"{format_path(folder)} holds no image. Put some there, or delete it.")
        found += [(path, classes[folder.name]) for path in files]
    if not found:
        raise BadInput(f"The folders of {part}/ hold no image. Put some there, or delete {part}/.")
    return found


def _entries(folder: Path) -> list[Path]:
    """What is in a folder by name, without what systems hide there."""
    try:
        there = sorted(os.listdir(folder))
    except OSError as error:
        raise BadInput(f"{format_path(folder)} cannot be read: {error.strerror}.") from None
    return [folder / name for name in there if not name.startswith(".") and name.lower() not in _CLUTTER]


def _folders(folder: Path) -> list[Path]:
    there = _entries(folder)
    for path in there:
        if not path.is_dir():
            raise BadInput(f"{format_path(path)} is not a folder of a class. Move it elsewhere. {_LAYOUT}.")
    return there


def _files(folder: Path) -> list[Path]:
    there = _entries(folder)
    for path in there:
        if path.suffix.lower() not in images.SUFFIXES or not path.is_file():
            known = ", ".join(sorted(images.SUFFIXES))
            raise BadInput(f"{format_path(path)} is not an image file ({known}). Move it elsewhere, or convert it.")
    return there
