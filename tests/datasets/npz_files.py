"""Write small `.npz` files, and read why one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.core.errors import BadInput
from lightexp.datasets.arrays import Arrays

X = np.random.default_rng(0).integers(0, 256, (60, 4, 5), np.uint8)
Y = np.arange(60) % 3
FLOATS = X.astype(np.float32) / 255


def save(path: Path, **arrays: Any) -> Arrays:
    """Write arrays to a file and return its data set."""
    np.savez_compressed(path, **arrays)
    return Arrays(str(path))


def refusal(dataset: Arrays) -> str:
    """Return the one-line message with which a data set is refused."""
    with pytest.raises(BadInput) as caught:
        dataset.load()
    assert "\n" not in str(caught.value)
    return str(caught.value)
