"""Labels of anomalies from arrays as people save them: of all splits, of the test split only, or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput
from lightexp.datasets.labels import ClassCount, NumberedLabels, number_labels

UNKNOWN = -1
"""Label of an example of a split without labels, which counts as normal."""


def number_known_labels(
    path: Path, arrays: Mapping[str, NDArray[Any]], lengths: Mapping[str, int], classes: ClassCount | None
) -> NumberedLabels:
    """Number the classes of the splits that have labels; the others are `UNKNOWN`.

    Args:
        path: Path of the file, for messages.
        arrays: Labels by the name of their array; see `labels.number_labels`.
        lengths: Number of examples of each split, by the name that its labels have or would have.
        classes: See `labels.number_labels`.

    Raises:
        BadInput: If they cannot be numbered.
    """
    unknown = {name: np.full(length, UNKNOWN, np.int32) for name, length in lengths.items() if name not in arrays}
    if not arrays:
        return NumberedLabels(unknown, classes=0)
    columns = {name: y.reshape(len(y), -1) for name, y in arrays.items()}
    if len({(y.shape[1], y.dtype.kind in "US") for y in columns.values()}) > 1:
        raise BadInput(f"{path}: {' and '.join(columns)} differ in shape or type. Save all of them alike.")
    joined = np.concatenate(list(columns.values()))
    if joined.dtype.kind in "biuf" and joined.shape[1] == 1 and np.isin(joined, (0, 1)).all():
        numbered = NumberedLabels({"y": joined.reshape(-1).astype(np.int32)}, classes=2)
    else:
        numbered = number_labels(path, {" and ".join(columns): joined}, classes)
    [labels] = numbered.splits.values()
    ends = np.cumsum([len(y) for y in columns.values()])[:-1]
    known = dict(zip(columns, np.split(labels, ends), strict=True))
    return NumberedLabels({**unknown, **known}, numbered.classes, numbered.names, numbered.notes)
