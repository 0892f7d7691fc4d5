"""Tests of images with several labels each, from a CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightexp.core.errors import BadInput
from lightexp.datasets.image_folder import ImageFolder
from lightexp.tasks.classification import Classification
from lightexp.tasks.multilabel import Multilabel
from tests.datasets.image_files import PIXELS, save


def fill(folder: Path, names: list[str]) -> ImageFolder:
    """Write an image for each name and a file of labels: whether the number is odd, and whether it is above 9."""
    lines = ["file,odd,large"]
    for number, name in enumerate(names):
        save(folder / "images" / name, PIXELS[number])
        lines.append(f"{name},{number % 2},{int(number > 9)}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return ImageFolder(str(folder / "images"), labels=str(folder / "labels.csv"))


def test_images_get_the_labels_of_their_rows(tmp_path: Path) -> None:
    dataset = fill(tmp_path, [f"{number % 3}/{number}.png" for number in range(20)])
    assert dataset.serve(Multilabel()).check() == tmp_path / "images"
    data = dataset.load()
    assert (data.classes, data.names, data.shape) == (0, ("odd", "large"), (12, 10, 3))
    assert [len(split) for split in data.splits.values()] == [13, 3, 4]
    numbers = {pixels.tobytes(): number for number, pixels in enumerate(PIXELS)}
    for split in data.splits.values():
        drawn = np.array([numbers[image.tobytes()] for image in split.x])
        np.testing.assert_array_equal(split.y, np.stack([drawn % 2, drawn > 9], axis=1))


def test_folders_of_splits_are_kept(tmp_path: Path) -> None:
    parts = ["train"] * 12 + ["val"] * 3 + ["test"] * 5
    data = fill(tmp_path, [f"{part}/{number}.png" for number, part in enumerate(parts)]).load()
    assert [len(split) for split in data.splits.values()] == [12, 3, 5]
    assert data.test.x.tobytes() == PIXELS[15:20].tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,odd\n0.png,2\n", r"holds \[2\.0\] in row 0\. task=multilabel takes a 0 or 1"),
        ("file,odd\n0.png,yes\n", "needs a first column of file names and a column of 0 and 1 for each label"),
        ("odd,file\n0,0.png\n", "needs a first column of file names"),
        ("file,odd\n0.png,1\n9.png,0\n", "column 'file', row 2 below the heading: 9.png is no image file in"),
        ("file,odd\n0.png,1\n0.png,0\n", "row 2 below the heading: 0.png is named twice"),
        ("file,odd\n../labels.csv,1\n", r"\.\./labels\.csv is no image file in"),
        ("file,odd\n0.png,\n", "column 'odd' has no value in row 1"),
    ],
)
def test_unusable_labels_are_refused(content: str, message: str, tmp_path: Path) -> None:
    dataset = fill(tmp_path, ["0.png", "1.png"])
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(BadInput, match=message):
        dataset.load()


def test_labels_and_task_belong_together(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is for task=multilabel\. Say that, or leave it out"):
        ImageFolder("x", labels="y.csv").serve(Classification())
    with pytest.raises(BadInput, match=r"Set dataset\.labels=FILE\.csv, or make labels of the folders' classes"):
        ImageFolder("x").serve(Multilabel())
    (tmp_path / "images").mkdir()
    with pytest.raises(BadInput, match=r"dataset\.labels=gone\.csv is not a file"):
        ImageFolder(str(tmp_path / "images"), labels="gone.csv").check()
