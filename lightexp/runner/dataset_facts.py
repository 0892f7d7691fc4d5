"""Description of a run's data in its record."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lightexp.core.data import Data
from lightexp.core.primary_metric import PRIMARY
from lightexp.core.task import make_default_task


def describe_dataset(data: Data, source: Data) -> dict[str, Any]:
    """Return the entry `dataset` of a record.

    Args:
        data: The data as the model sees it.
        source: The same with the labels that the data set itself has, which the digests of the splits are of.
    """
    return {
        "name": data.name,
        "classes": data.classes,
        "shape": list(data.shape),
        **({"notes": list(data.notes)} if data.notes else {}),
        **_describe_targets(data),
        "labels": data.task.name_outputs(data),
        "scale": data.scale,
        "offset": data.offset,
        **({} if data.task == make_default_task() else {PRIMARY: asdict(data.task.describe_primary(data))}),
        "splits": {name: {"n": len(split), "digest": split.digest} for name, split in source.splits.items()},
    }


def _describe_targets(data: Data) -> dict[str, Any]:
    """Return the mean and the standard deviation of standardised targets; nothing of others."""
    if not data.target_scale:
        return {}
    return {"targets": {"mean": list(data.target_offset), "std": list(data.target_scale)}}
