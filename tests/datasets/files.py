"""Small files of the kinds that data sets are read from."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightexp.datasets.image_files import IDX


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """An IDX file's bytes, before gzip."""
    return np.array([0x800 + array.ndim, *array.shape], ">u4").tobytes() + array.tobytes()


def write_idx(folder: Path, train: int = 200, test: int = 50, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Writes the four files of an MNIST-like set and returns their arrays."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays: list[NDArray[np.uint8]] = []
    for count in (train, test):
        arrays.append(rng.integers(0, 256, (count, 28, 28), np.uint8))
        arrays.append((np.arange(count) % 10).astype(np.uint8))
    for name, array in zip(IDX, arrays, strict=True):
        (folder / name).write_bytes(gzip.compress(idx_bytes(array), 1, mtime=0))
    return arrays


def write_archive(path: Path, arrays: list[NDArray[np.uint8]]) -> None:
    """Writes what `write_idx` returned as Keras' `mnist.npz`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x_train, y_train, x_test, y_test = arrays
    np.savez_compressed(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
