"""Read the labels of image files, several for each image, from a CSV file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput
from lightexp.datasets import indicators, table_files
from lightexp.datasets.images import SUFFIXES, format_path


@dataclass(frozen=True)
class LabelledImages:
    """Images with a 0 or 1 for each of several labels.

    Attributes:
        names: Names of the files, relative to the folder.
        y: Indicators `(n, labels)` float32.
        labels: Names of the labels.
    """

    names: tuple[str, ...]
    y: NDArray[np.float32]
    labels: tuple[str, ...]

    def list_rows(self, part: str) -> list[int]:
        """Return the rows of the images in the folder of a split."""
        return [row for row, name in enumerate(self.names) if PurePosixPath(name).parts[0] == part]


def read_labels(path: Path, folder: Path) -> LabelledImages:
    """Read a CSV file whose first column names image files and whose others are labels.

    Args:
        path: Path of the file.
        folder: The folder that the names are relative to.

    Raises:
        BadInput: If the file cannot be read, a label is neither 0 nor 1, or an image does not exist or is named twice.
    """
    columns = table_files.read_columns(path, None, [], None)
    (first, names), *labels = columns.items()
    if names.dtype != object or not labels or any(values.dtype == object for _, values in labels):
        raise BadInput(
            f"{format_path(path)} needs a first column of file names and a column of 0 and 1 for each label. Received: "
            f"{', '.join(columns)}."
        )
    seen: set[str] = set()
    for row, name in enumerate(names, start=1):
        is_inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        if name in seen or not is_inside or Path(name).suffix.lower() not in SUFFIXES or not (folder / name).is_file():
            problem = "is named twice" if name in seen else f"is no image file in {format_path(folder)}"
            raise BadInput(
                f"{format_path(path)}: column '{first}', row {row} below the heading: {format_path(name)} {problem}."
            )
        seen.add(name)
    stacked = np.stack([values for _, values in labels], axis=1)
    y = indicators.convert_indicators(path, {"the table": stacked})["the table"]
    return LabelledImages(tuple(names), y, tuple(name for name, _ in labels))
