"""Tests of the numbers that a regression learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.core.errors import BadInput
from lightexp.datasets.arrays import Arrays
from lightexp.datasets.numbers import convert_numbers
from lightexp.tasks.binary import Binary
from lightexp.tasks.regression import Regression


def test_numbers_become_columns_of_float32() -> None:
    converted = convert_numbers(Path("f.npz"), {"y": np.arange(3), "y_val": np.ones((2, 1))})
    assert [(y.shape, y.dtype) for y in converted.values()] == [((3, 1), np.float32), ((2, 1), np.float32)]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.array([1.0, np.nan])}, r"f\.npz: y holds \[nan\] in row 1"),
        ({"y": np.array([1.0, 1e300])}, r"y holds \[1e\+300\] in row 1"),
        ({"y": np.ones((2, 2)), "y_val": np.ones(2)}, "y_val holds 1 targets, y 2"),
    ],
)
def test_unusable_numbers_are_refused(arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        convert_numbers(Path("f.npz"), arrays)


def test_text_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "text.npz", x=np.ones((4, 2), np.float32), y=np.array(["a", "b", "a", "b"]))
    with pytest.raises(BadInput, match=r"y is of type <U1\. task=regression learns numbers"):
        Arrays(str(tmp_path / "text.npz")).serve(Regression()).load()


def test_targets_are_read_as_the_task_learns_them() -> None:
    assert Arrays().serve(Regression()).targets == "numbers"
    assert Arrays().serve(Binary()).targets == "labels"
    assert Arrays(targets="labels").serve(Regression()).targets == "labels"
