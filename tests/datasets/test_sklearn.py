"""Tests of scikit-learn's tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import datasets

from lightexp.core.errors import BadInput
from lightexp.core.preprocessing import Scaling
from lightexp.datasets import sklearn
from lightexp.datasets.sklearn import Sklearn

LOADERS = {
    "breast_cancer": datasets.load_breast_cancer,
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "diabetes": lambda: datasets.load_diabetes(scaled=False),
    "linnerud": datasets.load_linnerud,
}


@pytest.mark.parametrize("name", LOADERS)
def test_table_is_that_of_scikit_learn(name: Any) -> None:
    data, expected = Sklearn(name).load(), LOADERS[name]()
    x = np.concatenate([split.x for split in data.splits.values()])
    y = np.concatenate([split.y for split in data.splits.values()])
    target = expected.target if expected.target.ndim == 2 or data.classes else expected.target[:, None]
    rows = np.concatenate([x, y.reshape(len(y), -1)], axis=1)
    wanted = np.concatenate([expected.data, target.reshape(len(target), -1)], axis=1).astype(np.float32)
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], wanted[np.lexsort(wanted.T)])
    assert list(data.names) == (list(expected.target_names) if data.classes else [])
    assert data.classes == len(data.names)
    inputs = data.inputs(data.train.x)
    np.testing.assert_allclose(
        [inputs.mean(axis=0), inputs.std(axis=0)], [[0] * x.shape[1], [1] * x.shape[1]], atol=1e-4
    )


def test_own_scaling_is_used() -> None:
    data = Sklearn("iris", scaling=Scaling(std=2.0)).load()
    assert (data.scale, data.offset) == (0.5, 0.0)


def test_missing_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sklearn, "find_spec", lambda _: None)
    with pytest.raises(BadInput, match=r"needs scikit-learn's iris\.csv, which is not here\. pip install scikit-learn"):
        Sklearn("iris").check()
