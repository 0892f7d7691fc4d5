"""The primary metric of a task as records, reports and searches know it, without NumPy and without the task's code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

PRIMARY = "primary"
"""Key of a primary metric other than accuracy in a record's `dataset`."""


@dataclass(frozen=True)
class PrimaryMetric:
    """The metric that choices and comparisons are based on.

    Attributes:
        name: Its name without the split, such as `accuracy`.
        direction: Which way is better.
        reference: The value of guessing; None where it is not known.
        unit: Its unit; empty for a number without one.
        is_share: Whether differences are shown in percentage points.

    Example:
        >>> accuracy = PrimaryMetric(reference=0.25)
        >>> accuracy.to_error(0.75), accuracy.reference_error
        (0.25, 0.75)
        >>> rmse = PrimaryMetric("rmse", "min", 80.0, "mm", is_share=False)
        >>> rmse.to_error(20.0), rmse.reference_error
        (0.25, 1.0)
    """

    name: str = "accuracy"
    direction: Literal["max", "min"] = "max"
    reference: float | None = None
    unit: str = ""
    is_share: bool = True

    def __post_init__(self) -> None:
        if self.direction not in ("max", "min"):  # a record may come from other software
            raise ValueError(f"direction is {self.direction!r}")

    def to_error(self, value: float) -> float:
        """Return a value on the error axis of hypervolumes, from 0; smaller is better.

        A metric to maximise, which is at most 1, becomes its distance from 1; one to minimise becomes its ratio to the
        value of guessing.
        """
        return 1 - value if self.direction == "max" else value / (self.reference or 1.0)

    def to_quality(self, value: float) -> float:
        """Return a value on an axis on which larger is better: itself, or the distance of its error from 1."""
        return value if self.direction == "max" else 1 - self.to_error(value)

    def worsen(self, value: float, tolerance: float) -> float:
        """Return a value that is worse by a tolerance, in percentage points of a share or else in the metric's unit."""
        return value - tolerance / self.factor if self.direction == "max" else value + tolerance

    def format(self, value: float) -> str:
        """Return a value as text, such as `91.20%` or `0.31 mm`."""
        return f"{value:.2%}" if self.is_share else f"{value:.4g} {self.unit}".rstrip()

    @property
    def reference_error(self) -> float | None:
        """The error of guessing; None where it is not known."""
        if self.reference is None:
            return None
        return self.to_error(self.reference)

    def format_change(self, change: float) -> str:
        """Return a difference as text, such as `1.2 points` or `0.31 mm`."""
        return f"{100 * change:.1f} points" if self.is_share else f"{change:.3g} {self.unit}".rstrip()

    @property
    def factor(self) -> int:
        """The factor of differences as they are shown: 100 for percentage points."""
        return 100 if self.is_share else 1

    @property
    def difference_unit(self) -> str:
        """The unit of differences as they are shown; empty for a number without one."""
        return "pp" if self.is_share else self.unit


def read_primary(dataset: Mapping[str, Any]) -> PrimaryMetric:
    """Return the primary metric of a record, from its `dataset`.

    Records of classification, and of versions before tasks, name their number of classes instead.
    """
    stored = dataset.get(PRIMARY)
    if stored is not None:
        return PrimaryMetric(**stored)
    classes = int(dataset.get("classes") or 0)
    return PrimaryMetric(reference=1 / classes if classes > 1 else None)


def find_value(metrics: Mapping[str, float], primary: PrimaryMetric) -> float | None:
    """Return the primary metric on the test split or, where that was not measured, on the validation split."""
    value = metrics.get(f"{primary.name}/test", metrics.get(f"{primary.name}/val"))
    return value if value is None or math.isfinite(value) else None
