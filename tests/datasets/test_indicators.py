"""Tests of reading indicators: a 0 or 1 for each of several labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.core.errors import BadInput
from lightexp.datasets.arrays import Arrays

X = np.arange(20, dtype=np.float32).reshape(10, 2)
Y = np.stack([np.arange(10) % 2, np.arange(10) % 3 == 0], axis=1)


def load(folder: Path, **arrays: Any) -> Any:
    np.savez(folder / "tags.npz", **arrays)
    return Arrays(path=str(folder / "tags.npz"), targets="indicators").load()


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.float64])
def test_types_give_the_same_columns(tmp_path: Path, dtype: Any) -> None:
    data = load(tmp_path, x_train=X, y_train=Y.astype(dtype), x_test=X, y_test=Y.astype(dtype))
    np.testing.assert_array_equal(data.test.y, Y)
    assert (data.test.y.dtype, data.classes) == (np.float32, 0)


@pytest.mark.parametrize(
    ("y", "y_test", "message"),
    [
        (Y[:, 0], Y, r"y_train is of type int64 and shape \(10,\).*say task=classification or set task\.labels"),
        (Y.astype(str), Y, r"y_train is of type <U21"),
        (Y, Y + np.arange(10)[:, None], r"y_test holds \[2, 1\] in row 1.*say task=regression"),
        (Y, Y[:, :1], "y_test holds 1 labels, y_train 2"),
    ],
)
def test_other_targets_are_refused(tmp_path: Path, y: Any, y_test: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load(tmp_path, x_train=X, y_train=y, x_test=X, y_test=y_test)
