"""Labels of TFRecord data sets, and errors that name a record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput, LightexpError
from lightexp.datasets import tfrecord_files

_LABELS_PER_ARRAY = 1 << 16


class LabelColumn:
    """Collects labels in little memory: whole numbers in 4 bytes each, where they fit."""

    def __init__(self, count: int) -> None:
        """Begin without labels.

        Args:
            count: Number of labels to come; any further ones are left out.
        """
        self._labels: NDArray[Any] | None = None  # one array, as many freed ones would not return to the system
        self._count, self._packed = count, 0
        self._pending: list[Any] = []

    def append(self, label: Any) -> None:
        """Add a label."""
        self._pending.append(label)
        if len(self._pending) == _LABELS_PER_ARRAY:
            self._pack()

    def to_array(self) -> NDArray[Any]:
        """Return all labels, `(n,)`."""
        self._pack()
        assert self._labels is not None
        return self._labels[: self._packed]

    def _pack(self) -> None:
        if not self._pending:
            return
        labels = np.array(self._pending)
        self._pending.clear()
        limits = np.iinfo(np.int32)
        if labels.dtype.kind == "i" and limits.min <= labels.min() and labels.max() <= limits.max:
            labels = labels.astype(np.int32)
        if self._labels is None:
            self._labels = np.empty(self._count, labels.dtype)
        self._labels = self._labels.astype(np.promote_types(self._labels.dtype, labels.dtype), copy=False)
        end = min(self._packed + len(labels), self._count)
        self._labels[self._packed : end] = labels[: end - self._packed]
        self._packed = end


@contextmanager
def name_damage(path: Path, number: int) -> Iterator[None]:
    """Name the record in the error of a block that decodes it."""
    try:
        yield
    except LightexpError as error:
        raise BadInput(f"{path}: record {number}: {error}") from None
    except (ValueError, KeyError) as error:
        raise make_damage_error(path, number, error) from None


def make_damage_error(path: Path, number: int, error: Exception) -> BadInput:
    """Return the error for a record that cannot be decoded."""
    reason = f"has no feature {error}" if isinstance(error, KeyError) else str(error)
    return BadInput(f"{path}: record {number} cannot be used: {reason}. Write all records alike.")


def decode_label(feature: bytes) -> Any:
    """Return the number or the string of a feature that is a label.

    Raises:
        ValueError: If it holds no value, or several.
    """
    value = tfrecord_files.decode_feature(feature)
    if len(value) != 1:
        raise ValueError(f"its label holds {len(value)} values")
    return value[0].decode("utf-8", "replace") if isinstance(value[0], bytes) else value[0]
