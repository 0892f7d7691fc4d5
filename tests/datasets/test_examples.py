"""Tests of the types and axes of the examples of a user's `.npz` file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.core.preprocessing import Scaling
from lightexp.models.cnn_1d import Cnn1d
from lightexp.models.small_cnn import SmallCnn
from tests.datasets.npz_files import FLOATS, X, Y, refusal, save


@pytest.mark.parametrize("kind", [np.int64, np.uint16, ">i4", np.uint8])
def test_pixels_of_every_integer_type_are_bytes(kind: Any, file: Path) -> None:
    expected = save(file, x=X, y=Y).load()
    data = save(file, x=X.astype(kind), y=Y).load()
    assert (data.key, data.test.digest, data.notes) == (expected.key, expected.test.digest, ())


def test_whole_numbers_that_are_no_pixels(file: Path) -> None:
    booleans = save(file, x=X > 99, y=Y).load()
    assert (booleans.train.x.dtype, booleans.scale) == (np.uint8, 1.0)
    assert np.array_equal(np.unique(booleans.inputs(booleans.train.x)), [0, 1])
    deep = save(file, x=X.astype(np.uint16) * 257, y=Y).load()
    assert deep.inputs(deep.train.x).max() == pytest.approx(1)
    assert "16-bit" in deep.notes[0]
    sound = save(file, x=X.astype(np.int16) - 100, y=Y).load()
    assert (sound.scale, float(sound.inputs(sound.train.x).min())) == (1.0, -100)
    assert "from -100 to 155, which are no pixels" in sound.notes[0]
    dark = save(file, x=X // 16, y=Y).load()
    assert "dataset.scaling.range=[0,17]" in dark.notes[0]
    lit = replace(save(file, x=X // 16, y=Y), scaling=Scaling(range=[0.0, 17.0])).load()
    assert lit.inputs(lit.train.x).max() == pytest.approx(1)


def test_integers_of_splits_share_a_type(file: Path) -> None:
    data = save(file, x=X, y=Y, x_test=X.astype(np.int64) + 9, y_test=Y).load()
    assert [split.x.dtype for split in data.splits.values()] == [np.float32] * 3
    disk = replace(save(file, x=X.astype(np.int64).repeat(900, 1), y=Y), memory_mb=1).load()
    assert disk.train.on_disk
    assert disk.train.x.dtype == np.uint8


@pytest.mark.parametrize(
    ("shape", "settings", "expected"),
    [
        ((20, 4), {}, (20, 4, 1)),
        ((20, 1), {}, (20, 1)),
        ((20, 4), {"kind": "series"}, (20, 4)),
        ((4, 20), {"kind": "series", "layout": "nchw"}, (20, 4)),
        ((80,), {"kind": "series"}, (80, 1)),
        ((20, 4), {"kind": "features"}, (80,)),
        ((20, 1), {"kind": "image"}, (20, 1, 1)),
        ((3, 5, 8), {}, (5, 8, 3)),
        ((1, 9, 9), {}, (9, 9, 1)),
        ((3, 5, 8), {"layout": "nhwc"}, (3, 5, 8)),
        ((2, 5, 8), {}, (2, 5, 8)),
        ((2, 5, 8), {"layout": "nchw"}, (5, 8, 2)),
        ((3, 5, 4), {}, (3, 5, 4)),
        ((5, 8, 3), {}, (5, 8, 3)),
    ],
)
def test_axes_are_arranged(
    shape: tuple[int, ...], settings: dict[str, Any], expected: tuple[int, ...], file: Path
) -> None:
    x = np.random.default_rng(0).integers(0, 256, (60, *shape), np.uint8)
    data = replace(save(file, x=x, y=Y, x_test=x, y_test=Y), **settings).load()
    assert data.shape == expected
    moved = shape != (*expected,) and sorted(shape) == sorted(expected) and len(shape) == len(expected)
    assert np.array_equal(data.test.x.reshape(60, -1), (np.moveaxis(x, 1, -1) if moved else x).reshape(60, -1))
    assert any("channels are taken to be first" in note for note in data.notes) == (moved and not settings)


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((80,), {"kind": "image"}, "dataset.kind=image does not fit"),
        ((4, 4, 5), {"kind": "series"}, "dataset.kind=series does not fit"),
        ((80,), {"layout": "nchw"}, "dataset.layout=nchw needs channels"),
        ((8, 10), {"layout": "nchw"}, "dataset.layout=nchw needs channels"),
    ],
)
def test_axes_that_do_not_fit_are_refused(
    shape: tuple[int, ...], settings: dict[str, Any], message: str, file: Path
) -> None:
    assert message in refusal(replace(save(file, x=X.reshape(-1, *shape)[:4], y=Y[:4]), **settings))


def test_models_of_series_get_series(file: Path) -> None:
    dataset = save(file, x=FLOATS, y=Y)
    assert dataset.resolve(Cnn1d()).load().shape == (4, 5)
    assert dataset.resolve(SmallCnn()).load().shape == (4, 5, 1)
    assert replace(dataset, kind="image").resolve(Cnn1d()).load().shape == (4, 5, 1)
    scaling = Scaling(mean=[0.0, 1.0, 2.0, 3.0, 4.0])
    assert np.array_equal(replace(dataset, scaling=scaling).resolve(Cnn1d()).load().offset, [0, -1, -2, -3, -4])
    images = save(file, x=X[..., None], y=Y)
    assert images.resolve(Cnn1d()) == images


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.longdouble])
def test_floats_of_every_size_become_float32(kind: Any, file: Path) -> None:
    x = (FLOATS * 8).round().astype(kind)  # the same number in all of them
    data = save(file, x=x, y=Y, x_test=x, y_test=Y).load()
    assert data.test.x.dtype == np.float32
    assert np.array_equal(data.test.x[..., 0], x)
