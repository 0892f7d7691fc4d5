"""The data set of a user's image files, in one folder per class or with a CSV file of their labels."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from lightexp.core.config import Count, Positive, settings_dataclass
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.protocols import Task
from lightexp.core.streamed_array import StreamedArray, make_indices
from lightexp.datasets import image_labels, images
from lightexp.datasets.base import InputDataset
from lightexp.datasets.image_reader import ImageReader, load_images
from lightexp.datasets.images import Background, ImageSize, format_path
from lightexp.datasets.labels import ClassCount, describe_absent
from lightexp.datasets.path_table import PathTable
from lightexp.datasets.splits import count_fifth, hold_out, make_split

PARTS = ("train", "val", "test")
_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"}
ClassNames = Annotated[list[str], Field(min_length=2)]
_LAYOUT = "Images go in PATH/<class>/, or in PATH/train/<class>/, PATH/val/<class>/ and PATH/test/<class>/"


@settings_dataclass
class ImageFolder(InputDataset):
    """Image files in one folder per class, or with a CSV file of several labels for each.

    They are in `PATH/<class>/`, or in `PATH/train/<class>/` and optionally `PATH/val/<class>/`, `PATH/test/<class>/`.
    Classes are numbered in the order of their folders' names (those in `train/` if it exists). Without a test split a
    fifth is held out, and without a validation split a fifth of the rest. Raw pixels are uint8,
    `(n, height, width, channels)`; inputs are from 0 to 1. The first frame of an animation is used, the EXIF
    orientation is applied, transparent images are put on a background, and of 16 bits the upper 8 are used. Hidden
    files are ignored; any other file that is not an image is refused.

    With `labels` the folder may be arranged in any way: the CSV file's first column names images relative to it, and
    each other column is a label, 0 or 1. If all names begin with `train/`, `val/` or `test/`, those are the splits.

    Attributes:
        path: The folder.
        labels: A CSV file of labels, for task=multilabel. Defaults to None: one class for each image, by its folder.
        size: Height and width to resize all images to, bilinear with antialiasing. Defaults to None: they have one
            size already.
        channels: 3 for colour, 1 for grey. Defaults to 3.
        background: Colour behind transparent pixels, 0 to 255: one number, or red, green and blue. Defaults to white.
        classes: Names of all classes in the order of the model's outputs, some of which may have no folder; or their
            number, if folders are named 0, 1, 2, ... Defaults to None: the folders' names in their order.
        memory_mb: Megabytes; a larger split is kept on disk (in the folder that TMPDIR names) and streamed. Does not
            change results.
        disk_gb: Gigabytes that such splits may take; larger ones are decoded again whenever they are used. Defaults to
            None: what the disk has free. Does not change results.
        max_gb: Gigabytes that images which are not resized may unpack to. Defaults to None: 256 MB and 100 times the
            files' size.
    """

    path: str | None = None
    labels: str | None = None
    size: ImageSize | None = None
    channels: Literal[1, 3] = 3
    background: Background = 255
    classes: ClassCount | ClassNames | None = None
    memory_mb: Count = field(default=4096, metadata={"keyed": False})
    disk_gb: Positive | None = field(default=None, metadata={"keyed": False})
    max_gb: Positive | None = field(default=None, metadata={"keyed": False})

    def serve(self, task: Task) -> ImageFolder:
        """Check that `labels` is set for a task with several labels, and for no other; see `Dataset.serve`."""
        if self.labels is None and task.target_kind == "indicators":
            raise BadInput(
                "task=multilabel needs several labels for each image. Set dataset.labels=FILE.csv, or make labels of "
                "the folders' classes with task.labels."
            )
        if self.labels is not None and task.target_kind != "indicators":
            raise BadInput(
                f"dataset.labels={format_path(self.labels)} is for task=multilabel. Say that, or leave it out."
            )
        return self

    def check(self) -> Path:
        """Check that the folder holds folders of two classes or more and nothing else; opens no image.

        Returns:
            The folder.

        Raises:
            BadInput: If it does not, or `labels` is not a file.
        """
        if self.labels is None:
            self._number_classes(self._list_parts()["train"])
        elif self.classes is not None:
            raise BadInput("dataset.classes has no effect with dataset.labels, which names the labels. Leave it out.")
        elif not os.path.isfile(os.path.expanduser(self.labels)):
            raise BadInput(f"dataset.labels={format_path(self.labels)} is not a file. Set dataset.labels=FILE.csv")
        return self._find_folder()

    def load(self) -> Data:
        """Decode and split the images, with a progress bar on stderr if it takes more than a second.

        Returns:
            The data set.

        Raises:
            BadInput: If a file is not an image, or has another size than the others, or a class has no images, or the
                file of labels cannot be used.
            RunFailed: If neither memory nor disk has room for them.
        """
        paths, splits, names = self._list_by_folder() if self.labels is None else self._list_by_file(self.labels)
        for part in ("test", "val"):
            if part not in splits:
                rest = splits["train"]
                splits["train"], splits[part] = hold_out(rest, count_fifth(len(rest)), self.split_seed)
        image_format = images.make_format(self.channels, self.size, self.background)
        if image_format.size is None:
            images.check_size(paths, image_format, self.max_gb)
        reader = ImageReader(
            lambda indices: [(path, format_path(path)) for path in map(paths.__getitem__, indices)], image_format
        )
        lists = [x.indices for part in PARTS if isinstance(x := splits[part].x, StreamedArray)]
        arrays = load_images(reader, lists, self.memory_mb * 1e6, self.disk_gb)
        notes = reader.describe_changes()
        train, val, test = (make_split(x, splits[part].y) for part, x in zip(PARTS, arrays, strict=True))
        classes = len(names) if self.labels is None else 0
        data = self.make_data(self._find_folder().resolve().name or "images", train, val, test, classes, top=255)
        absent = describe_absent(train.y, classes) if classes else ()
        return replace(data, names=names, notes=(*data.notes, *notes, *absent))

    def _list_by_folder(self) -> tuple[PathTable, dict[str, Split], tuple[str, ...]]:
        """Return the images, their splits as indices into them with classes, and the classes' names."""
        parts = self._list_parts()
        classes = self._number_classes(parts["train"])
        splits: dict[str, Split] = {}  # of indices, so that each image is decoded into its final place

        def iterate_folders() -> Iterator[tuple[Path, list[str]]]:
            count = 0
            for part, folders in parts.items():
                numbers = []
                for folder, names in _list_class_files(folders, classes, part):
                    numbers.append(np.full(len(names), classes[folder.name], np.int32))
                    yield folder, names
                labels = np.concatenate(numbers)
                splits[part] = make_split(make_indices(count, len(labels)), labels)
                count += len(labels)

        return PathTable(iterate_folders()), splits, tuple(classes)

    def _list_by_file(self, labels: str) -> tuple[PathTable, dict[str, Split], tuple[str, ...]]:
        """Return the same of the images that a file of labels names."""
        folder = self._find_folder()
        labelled = image_labels.read_labels(Path(os.path.expanduser(labels)), folder)
        rows = {part: labelled.list_rows(part) for part in PARTS}
        if sum(map(len, rows.values())) < len(labelled.names) or not rows["train"]:
            rows = {"train": list(range(len(labelled.names)))}
        chosen = {part: np.array(numbers, np.uint32) for part, numbers in rows.items() if numbers}
        indices = make_indices(0, len(labelled.names))
        splits = {part: make_split(indices.select(numbers), labelled.y[numbers]) for part, numbers in chosen.items()}
        return PathTable([(folder, labelled.names)]), splits, labelled.labels

    def _number_classes(self, folders: list[Path]) -> dict[str, int]:
        """Return the label of each class by its name."""
        names = [folder.name for folder in folders]
        if isinstance(self.classes, int):
            known = [str(number) for number in range(self.classes)]
        else:
            known = names if self.classes is None else self.classes
        if len(set(known)) < len(known):
            raise BadInput(f"dataset.classes names a class twice. Received: {known}. Name each once.")
        for name in names:
            if name not in known:
                raise BadInput(
                    f"dataset.classes={self.classes} has no class {format_path(name)}, which is a folder. "
                    "Name all classes in the model's order, as in "
                    "dataset.classes=[cat,dog]; a number of classes needs folders named 0, 1, 2, ..."
                )
        return {name: label for label, name in enumerate(known)}

    def _find_folder(self) -> Path:
        if self.path is None:
            raise BadInput("dataset=image_folder needs a folder. Received: none. Set dataset.path=FOLDER")
        folder = os.path.expanduser(self.path)
        if not os.path.isdir(folder):
            raise BadInput(f"dataset.path={format_path(self.path)} is not a folder. Set dataset.path=FOLDER")
        return Path(folder)

    def _list_parts(self) -> dict[str, list[Path]]:
        """Return the class folders of each existing split; only `train` if the images are not split."""
        root = self._find_folder()
        folders = _list_folders(root)
        # A folder `train` without folders in it is a class of that name.
        if not any(folder.name in PARTS and any(map(os.path.isdir, _list_entries(folder))) for folder in folders):
            parts = {"train": folders}
        else:
            if stray := [folder for folder in folders if folder.name not in PARTS]:
                raise BadInput(f"{format_path(stray[0])} is not a split, but is next to one. {_LAYOUT}.")
            parts = {folder.name: _list_folders(folder) for folder in folders}
            if "train" not in parts:
                raise BadInput(f"{format_path(root)} holds {', '.join(parts)} but no folder train. {_LAYOUT}.")
        count = len(parts["train"])
        if count < 2:
            raise BadInput(
                f"dataset.path={format_path(self.path)} needs folders of two classes or more. "
                f"Received: {count}. {_LAYOUT}."
            )
        return parts


def _list_class_files(folders: list[Path], classes: Collection[str], part: str) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folders of a split's classes with the names of their files."""
    is_empty = True
    for folder in folders:
        if folder.name not in classes:
            hint = suggest_nearest(format_path(folder.name), classes)
            raise BadInput(f"{format_path(folder)} is a class that is not in train/: {hint}")
        names = [path.name for path in _list_images(folder)]
        if not names and part == "train":
            raise BadInput(f"{format_path(folder)} holds no image. Put some there, or delete it.")
        is_empty &= not names
        yield folder, names
    if is_empty:
        raise BadInput(f"The folders of {part}/ hold no image. Put some there, or delete {part}/.")


def _list_entries(folder: Path) -> list[Path]:
    """Return the entries of a folder by name, without those that operating systems add."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise BadInput(f"{format_path(folder)} cannot be read: {error.strerror}.") from None
    return [folder / name for name in names if not name.startswith(".") and name.lower() not in _SYSTEM_FILES]


def _list_folders(folder: Path) -> list[Path]:
    entries = _list_entries(folder)
    for path in entries:
        if not path.is_dir():
            raise BadInput(f"{format_path(path)} is not a folder of a class. Move it elsewhere. {_LAYOUT}.")
    return entries


def _list_images(folder: Path) -> list[Path]:
    entries = _list_entries(folder)
    for path in entries:
        if path.suffix.lower() not in images.SUFFIXES or not path.is_file():
            known = ", ".join(sorted(images.SUFFIXES))
            raise BadInput(f"{format_path(path)} is not an image file ({known}). Move it elsewhere, or convert it.")
    return entries
