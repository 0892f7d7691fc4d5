"""Base class of data sets in TFRecord files, as TensorFlow programs and TensorFlow Datasets write them."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lightexp.core import memmap
from lightexp.core.config import Count, Positive, settings_dataclass
from lightexp.core.data import Data
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.regular_files import read_text
from lightexp.core.size_limits import check_unpacked_size, compute_size_limit
from lightexp.core.streamed_array import Indices, Rows, StreamedArray, make_indices
from lightexp.datasets import examples, images, labels, tfrecord_files
from lightexp.datasets.base import InputDataset
from lightexp.datasets.image_reader import EncodedImage, ImageReader, load_images, show_progress
from lightexp.datasets.images import Background, ImageSize
from lightexp.datasets.labels import ClassCount
from lightexp.datasets.record_index import RecordIndex
from lightexp.datasets.record_parsing import LabelColumn, decode_label, make_damage_error, name_damage
from lightexp.datasets.splits import count_fifth, hold_out, make_split

EXAMPLES = ("image/encoded", "image", "image_raw", "x", "features", "signal", "audio")
"""Names that are looked for if `example` is not set."""
LABELS = ("image/class/label", "label", "labels", "y", "class", "target")
"""Names that are looked for if `label` is not set."""
_FILE = re.compile(r"[.](tfrecords?|tfrec|record)\b")
_PART = re.compile(r"(?:^|[-_./])(train|val|test)(?:ing|idation|id)?(?=[-_.]|$)")
_Shape = Annotated[list[Annotated[int, Field(ge=1, le=1 << 24)]], Field(min_length=1, max_length=3)]


@dataclass(frozen=True)
class _RecordFormat:
    """How the records of a data set are read.

    Attributes:
        example: Name of the feature that is the example.
        label: Name of the feature that is the label.
        shape: Shape of an example.
        dtype: Type of an example's numbers.
        images: The format of encoded images; None if examples are numbers.
    """

    example: str
    label: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    images: images.ImageFormat | None


@dataclass(frozen=True)
class _Content:
    """What the records of each part hold.

    Attributes:
        x: Examples, or their indices if there is a reader.
        y: Labels as they are in the files.
        top: Largest possible raw value; None if raw values are floats.
        notes: Sentences on how the examples were read, for the user.
        reader: Reads the examples, if they are encoded images that can be read in any order.
    """

    x: Mapping[str, Rows]
    y: Mapping[str, NDArray[Any]]
    top: float | None
    notes: tuple[str, ...] = ()
    reader: ImageReader | None = None


@settings_dataclass
class RecordDataset(InputDataset):
    """TFRecord files of `tf.train.Example` messages with an example and a label each.

    An example is an encoded image (png, jpg, ...), the bytes of an array of uint8 or float32, or a list of numbers. A
    label is a whole number from 0 or 1 without gaps, or a string. Files are read one after the other; without a test
    split a fifth is held out, and without a validation split a fifth of the rest.

    Attributes:
        example: Name of the feature that is the example. Defaults to None: one of `EXAMPLES`.
        label: Name of the feature that is the label. Defaults to None: one of `LABELS`.
        shape: Shape of an example that is no encoded image, channel last. Defaults to None: lists are features.
        size: Height and width to resize images to. Defaults to None: they have one size already.
        channels: 3 for colour, 1 for grey images. Defaults to None: as the first image.
        background: Colour behind transparent pixels, 0 to 255: one number, or red, green and blue. Defaults to white.
        classes: Number of classes. Defaults to None: those of the train split.
        memory_mb: Megabytes; a larger split is kept on disk (in the folder that TMPDIR names) and streamed. Does not
            change results.
        disk_gb: Gigabytes that such splits of encoded images may take; larger ones are decoded again whenever they are
            used, unless their files end in `.gz`. Defaults to None: what the disk has free. Does not change results.
        max_gb: Gigabytes that the records may unpack to. Defaults to None: 256 MB and 100 times the files' size.
    """

    example: str | None = None
    label: str | None = None
    shape: _Shape | None = None
    size: ImageSize | None = None
    channels: Literal[1, 3] | None = None
    background: Background = 255
    classes: ClassCount | None = None
    memory_mb: Count = field(default=4096, metadata={"keyed": False})
    disk_gb: Positive | None = field(default=None, metadata={"keyed": False})
    max_gb: Positive | None = field(default=None, metadata={"keyed": False})

    @abstractmethod
    def check(self) -> Path:
        """Return the folder of the files, or the one file; see `Dataset.check`."""

    def title(self, path: Path) -> str:
        """Return the data set's name, for display, from what `check` returned."""
        return path.stem

    def read_shape(self, path: Path, example: str) -> list[int] | None:
        """Return the shape of an example that is no encoded image; None if it is not known.

        Args:
            path: What `check` returned.
            example: Name of the feature that is the example.
        """
        return self.shape

    def load(self) -> Data:
        """Read, decode and split the records; see `Dataset.load`."""
        path = self.check()
        files = list_files(path)
        records = {file: tfrecord_files.count_records(file) for paths in files.values() for file in paths}
        counts = {part: sum(records[file] for file in paths) for part, paths in files.items()}
        if empty := [part for part, count in counts.items() if not count]:
            raise BadInput(f"{path} holds no record of {empty[0]}. Write the files again, or delete them.")
        first = next(tfrecord_files.read_records(next(file for file in files["train"] if records[file])))
        record_format = self._choose_format(path, first)
        bytes_each = math.prod(record_format.shape) * record_format.dtype.itemsize
        size = sum(file.stat().st_size for paths in files.values() for file in paths)
        limit = compute_size_limit(size, self.max_gb)
        check_unpacked_size(path, sum(counts.values()) * bytes_each, limit, "dataset.max_gb")
        if record_format.images and not any(file.suffix == ".gz" for paths in files.values() for file in paths):
            content = self._index_images(files, records, record_format, record_format.images)
        else:
            content = self._read_arrays(path, files, counts, record_format)
        names = _read_class_names(path, record_format.label)
        known = self.classes or (len(names) if len(names) > 1 else None)
        named = {f"{record_format.label} of {part}": y for part, y in content.y.items()}
        numbered = labels.number_labels(path, named, known)
        splits = {
            part: make_split(x, y) for (part, x), y in zip(content.x.items(), numbered.splits.values(), strict=True)
        }
        for part in ("test", "val"):
            if part not in splits:
                train = splits["train"]
                splits["train"], splits[part] = hold_out(train, count_fifth(len(train)), self.split_seed)
        top, notes = content.top, content.notes
        if reader := content.reader:
            lists = [split.x.indices for split in splits.values() if isinstance(split.x, StreamedArray)]
            arrays = load_images(reader, lists, self.memory_mb * 1e6, self.disk_gb)
            splits = {part: replace(splits[part], x=x) for part, x in zip(splits, arrays, strict=True)}
            notes = (
                *reader.describe_changes(),
                *examples.describe_bytes(f"{record_format.example} of train", reader.brightest),
            )
        data = self.make_data(self.title(path), splits["train"], splits["val"], splits["test"], numbered.classes, top)
        names = numbered.names or (names if len(names) == numbered.classes else ())
        return replace(data, names=names, notes=(*data.notes, *notes, *numbered.notes))

    def _index_images(
        self,
        files: Mapping[str, Sequence[Path]],
        records: Mapping[Path, int],
        record_format: _RecordFormat,
        image_format: images.ImageFormat,
    ) -> _Content:
        """Return the labels of encoded images, and their indices as examples, with what reads these."""
        parts = {file: part for part, paths in files.items() for file in paths}
        counts = {part: sum(records[file] for file in paths) for part, paths in files.items()}
        columns = {part: LabelColumn(count) for part, count in counts.items()}
        with show_progress("indexing records", sum(records.values())) as advance:

            def visit(path: Path, number: int, record: bytes) -> None:
                with name_damage(path, number):
                    features = tfrecord_files.split_features(record)
                    columns[parts[path]].append(decode_label(features[record_format.label]))
                advance(1)

            index = RecordIndex(records, visit)

        def fetch(indices: Indices) -> list[EncodedImage]:
            encoded: list[EncodedImage] = []
            for number, record in zip(indices.tolist(), index.read(indices), strict=True):
                path, place = index.locate(number)
                with name_damage(path, place):
                    value = tfrecord_files.decode_feature(tfrecord_files.split_features(record)[record_format.example])
                    if isinstance(value, np.ndarray):
                        raise ValueError(f"{record_format.example} holds numbers")
                encoded.append((value[0] if value else b"", f"{path}: {record_format.example} of record {place}"))
            return encoded

        x: dict[str, Rows] = {}
        for part, count in counts.items():
            x[part] = make_indices(sum(map(len, x.values())), count)
        y = {part: column.to_array() for part, column in columns.items()}
        return _Content(x, y, top=255, reader=ImageReader(fetch, image_format))

    def _read_arrays(
        self, path: Path, files: Mapping[str, Sequence[Path]], counts: Mapping[str, int], record_format: _RecordFormat
    ) -> _Content:
        """Return examples and labels, each file read once."""
        x, y, changes = {}, {}, Counter[str]()
        limit = self.memory_mb * 1e6
        for part, paths in files.items():
            x[part] = memmap.allocate((counts[part], *record_format.shape), record_format.dtype, limit)
            y[part] = _read_part(paths, record_format, x[part], changes)
        notes = images.describe_changes(changes, record_format.images) if record_format.images else ()
        named = {f"{record_format.example} of {part}": values for part, values in x.items()}
        typed = examples.unify_types(path, named, limit)
        return _Content(dict(zip(x, typed.splits.values(), strict=True)), y, typed.top, (*notes, *typed.notes))

    def _choose_format(self, path: Path, record: bytes) -> _RecordFormat:
        """Choose how all records are read, from the first one."""
        try:
            features = tfrecord_files.split_features(record)
            example = _choose_feature(path, features, self.example, EXAMPLES, "example")
            label = _choose_feature(path, features, self.label, LABELS, "label")
            value = tfrecord_files.decode_feature(features[example])
        except ValueError as error:
            raise make_damage_error(path, 0, error) from None
        stated = self.read_shape(path, example)
        if isinstance(value, np.ndarray):
            return _RecordFormat(example, label, tuple(stated or [len(value)]), value.dtype, None)
        content = value[0] if value else b""
        if stated is not None:
            dtype = np.dtype(np.float32 if len(content) == 4 * math.prod(stated) else np.uint8)
            return _RecordFormat(example, label, tuple(stated), dtype, None)
        title = f"{path}: {example} of record 0"
        try:
            image_format = images.make_format(
                self.channels or images.count_channels(content, title), self.size, self.background
            )
            pixels = images.decode_image(content, image_format, title).pixels
        except BadInput as error:
            raise BadInput(f"{error} If it holds numbers, set dataset.shape=[HEIGHT,WIDTH,CHANNELS].") from None
        return _RecordFormat(example, label, pixels.shape, pixels.dtype, image_format)


def list_files(path: Path) -> dict[str, list[Path]]:
    """Return the files of each split, the train split first, by their names or those of their folders.

    Raises:
        BadInput: If there is none to train on.
    """
    if path.is_file():
        return {"train": [path]}
    parts: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
    for file in sorted([*path.glob("*"), *path.glob("*/*")]):
        if file.is_file() and _FILE.search(file.name) and not file.name.startswith("."):
            part = _PART.search(file.name) or _PART.search(file.parent.name if file.parent != path else "")
            parts[part[1] if part else "train"].append(file)
    if not parts["train"]:
        raise BadInput(
            f"{path} holds no file to train on. Name files NAME-train.tfrecord, NAME-val.tfrecord, NAME-test.tfrecord."
        )
    return {part: files for part, files in parts.items() if files}


def _choose_feature(
    path: Path, features: Mapping[str, bytes], name: str | None, usual: Sequence[str], setting: str
) -> str:
    known = sorted(features)
    if name is None:
        if (name := next((other for other in usual if other in features), None)) is not None:
            return name
        raise BadInput(f"{path} holds the features {', '.join(known) or 'none'}. Set dataset.{setting} to one of them.")
    if name not in features:
        raise BadInput(f"dataset.{setting}={name} is no feature of {path}: {suggest_nearest(name, known)}")
    return name


def _read_part(
    paths: Sequence[Path], record_format: _RecordFormat, x: NDArray[np.generic], changes: Counter[str]
) -> NDArray[Any]:
    """Fill `x` with the examples of some files, and return the labels `(n,)`."""
    targets = LabelColumn(len(x))
    row = 0
    with images.strict_warnings():
        for path in paths:
            for number, record in enumerate(tfrecord_files.read_records(path)):
                with name_damage(path, number):
                    features = tfrecord_files.split_features(record)
                    x[row] = _decode_example(features[record_format.example], record_format, changes)
                    targets.append(decode_label(features[record_format.label]))
                row += 1
    return targets.to_array()


def _decode_example(feature: bytes, record_format: _RecordFormat, changes: Counter[str]) -> NDArray[Any]:
    value = tfrecord_files.decode_feature(feature)
    if isinstance(value, np.ndarray):
        return value.reshape(record_format.shape)
    content = value[0] if value else b""
    if record_format.images is None:
        return np.frombuffer(content, record_format.dtype).reshape(record_format.shape)
    image = images.decode_image(content, record_format.images, record_format.example)
    changes.update(image.changes)
    if image.pixels.shape != record_format.shape:
        raise BadInput(
            f"its image is {image.pixels.shape[:2]}, the first one {record_format.shape[:2]}. To resize all, set "
            "dataset.size=[HEIGHT,WIDTH]."
        )
    return image.pixels


def _read_class_names(path: Path, label: str) -> tuple[str, ...]:
    """Return the names in the file that TensorFlow Datasets writes next to the records; empty without one."""
    file = path / f"{label}.labels.txt"
    return tuple(read_text(file).split("\n")[:-1]) if file.is_file() else ()
