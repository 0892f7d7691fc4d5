"""Tests of the data set of scikit-learn's digits."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import numpy as np

from lightexp.datasets.digits import Digits


def test_check_returns_path() -> None:
    assert Digits().check().name == "digits.csv.gz"


def test_load_matches_golden_digests() -> None:
    """Store keys depend on these: a change invalidates all stored results."""
    data = Digits().load()
    assert [split.digest for split in (data.train, data.val, data.test)] == [
        "6e7865bf873c44238c5736807e376383d10a568fb4e75a653fa3556334380ea3",
        "3fd1edb3c324576ae2f7ace09d0c8676195ad20d08929ed5301558d0de1283fb",
        "ad910f1a21d172864ab29e5ca99d84c143488bcdd1da7f4b90a2dd83c63440b8",
    ]


def test_load_equals_scikit_learn() -> None:
    bunch = import_module("sklearn.datasets").load_digits()
    data = Digits().load()
    x = np.concatenate([data.train.x, data.val.x, data.test.x])
    y = np.concatenate([data.train.y, data.val.y, data.test.y])
    rows = sorted((label, *pixels) for label, pixels in zip(y.tolist(), x.reshape(-1, 64).tolist(), strict=True))
    assert rows == sorted((t, *d) for t, d in zip(bunch.target.tolist(), bunch.data.astype(int).tolist(), strict=True))


def test_load_counts_shapes_and_scale() -> None:
    data = Digits().load()
    assert (len(data.train), len(data.val), len(data.test)) == (1150, 288, 359)
    assert (data.name, data.classes, data.shape) == ("digits", 10, (8, 8, 1))
    assert data.train.x.dtype == np.uint8
    inputs = data.inputs(data.train.x)
    assert (inputs.min(), inputs.max()) == (0.0, 1.0)
    totals = np.bincount(np.concatenate([data.train.y, data.val.y, data.test.y]))
    assert np.all(abs(np.bincount(data.test.y) - totals * 359 / 1797) < 1)


def test_split_seed_determines_splits() -> None:
    first, other, repeated = (Digits(split_seed=seed).load() for seed in (0, 1, 1))
    assert (other.key, other.test.digest) == (repeated.key, repeated.test.digest)
    assert first.test.digest != other.test.digest
    assert first.val.digest != other.val.digest


def test_train_examples_are_drawn_from_the_train_split() -> None:
    full, some = Digits().load(), Digits(train_examples=100).load()
    train = {image.tobytes() for image in full.train.x}
    assert len(some.train) == 100
    assert all(image.tobytes() in train for image in some.train.x)
    assert (some.val.digest, some.test.digest) == (full.val.digest, full.test.digest)
    assert some.notes == ("100 of the 1,150 training examples are used (train_examples).",)
    assert full.notes == ()


def test_load_does_not_import_scikit_learn() -> None:
    """Importing it takes two seconds."""
    script = (
        "import sys; from lightexp.datasets.digits import Digits; Digits().load(); sys.exit('sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
