"""Tests of the labels of a user's `.npz` file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.datasets.arrays import Arrays
from tests.datasets.npz_files import X, Y, refusal, save


@pytest.mark.parametrize(
    "y",
    [
        Y.astype(np.int8),
        Y.astype(np.float16),
        Y.astype(np.uint16),
        Y.astype(">i8"),
        Y.astype(np.uint64)[:, None],
        np.eye(3, dtype=int)[Y],
        np.eye(3, dtype=bool)[Y],
        np.eye(3, dtype=np.float16)[Y],
        np.asfortranarray(np.eye(3)[Y]),
    ],
)
def test_labels_of_every_type_are_equal(y: Any, file: Path) -> None:
    expected = save(file, x=X, y=Y).load()
    data = save(file, x=X, y=y).load()
    assert (data.key, data.test.digest) == (expected.key, expected.test.digest)


def test_labels_from_1_are_lowered_and_said(file: Path) -> None:
    data, expected = save(file, x=X, y=Y + 1).load(), save(file, x=X, y=Y).load()
    assert (data.key, data.names) == (expected.key, ("1", "2", "3"))
    assert "output 0 of the model is label 1" in data.notes[0]
    assert replace(save(file, x=X, y=Y + 1), classes=3).load().key == expected.key
    assert replace(save(file, x=X, y=Y + 1), classes=4).load().train.y.max() == 3


@pytest.mark.parametrize("kind", ["U5", ">U3", "S4"])
def test_strings_are_numbered_in_order(kind: str, file: Path) -> None:
    names = np.array(["emu", "cat", "dog"]).astype(kind)
    data = save(file, x=X, y=names[Y], x_test=X[:3], y_test=names[[0, 0, 1]]).load()
    assert (data.classes, data.names) == (3, ("cat", "dog", "emu"))
    assert data.test.y.tolist() == [2, 2, 0]
    assert "0 is cat, 1 is dog, 2 is emu" in data.notes[0]
    assert "holds 3 strings" in refusal(replace(save(file, x=X, y=names[Y]), classes=4))


def test_classes_without_examples(file: Path) -> None:
    data = Arrays(str(file), classes=10)
    save(file, x=X, y=Y * 2)
    assert data.load().classes == 10
    assert data.load().notes == ("No training example has class 1, 3, 5, 6, 7, 8, 9 of 10.",)
    assert "set dataset.classes=5" in refusal(Arrays(str(file)))
    assert "y goes up to 4, but dataset.classes is 4. Set dataset.classes=5" in refusal(replace(data, classes=4))
    unused_column = save(file, x=X, y=np.eye(4)[Y]).load()
    assert (unused_column.classes, unused_column.notes) == (4, ("No training example has class 3 of 4.",))


def test_advice_for_labels_works(file: Path) -> None:
    for y in (Y * 2, Y - 1, Y / 2, Y.astype(complex)):
        advice = re.search(r"save (numpy\S+), y\)", refusal(save(file, x=X, y=y)))
        assert advice
        assert advice[1] == "numpy.searchsorted(numpy.unique(y)"
        assert save(file, x=X, y=np.searchsorted(np.unique(y), y)).load().classes == 3
