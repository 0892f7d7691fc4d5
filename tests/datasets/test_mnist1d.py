"""Tests of the MNIST-1D data set."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from lightexp.core.errors import BadInput
from lightexp.datasets.mnist1d import Mnist1d


@pytest.mark.slow
def test_load_repeats_and_keeps_random_state() -> None:
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.rand()
    random.seed(5)
    np.random.seed(5)
    data = Mnist1d().load()
    assert (random.random(), np.random.rand()) == expected
    assert (data.name, data.classes, data.shape, data.scale, data.offset) == ("mnist1d", 10, (40, 1), 1.0, 0.0)
    assert [len(split) for split in data.splits.values()] == [3200, 800, 1000]
    assert data.train.x.dtype == np.float32
    assert np.ptp(np.bincount(data.train.y) / 4 - np.bincount(data.val.y)) < 2
    values = np.concatenate([split.x for split in data.splits.values()])
    assert (values.mean(), values.std()) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-3))
    other = Mnist1d(split_seed=1).load()
    assert other.key != data.key
    assert other.test.digest == data.test.digest
    rows = ({row.tobytes() for split in (d.train, d.val) for row in split.x} for d in (data, other))
    assert next(rows) == next(rows)


def test_check_does_not_import_package() -> None:
    script = (
        "import sys\n"
        "from lightexp.datasets.mnist1d import Mnist1d\n"
        "assert (Mnist1d().check() / 'data.py').is_file()\n"
        "print([name for name in ('mnist1d', 'matplotlib', 'requests', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_missing_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightexp.datasets.mnist1d.find_spec", lambda name: None)
    for method in (Mnist1d().check, Mnist1d().load):
        with pytest.raises(BadInput, match="pip install mnist1d"):
            method()
