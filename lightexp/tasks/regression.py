"""Regression: one or several numbers for each example, standardised for training and reported in their own unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lightexp.core.config import Positive, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.metrics import Metric
from lightexp.core.primary_metric import PrimaryMetric
from lightexp.core.task import Direction, SplitName, TargetKind, Task

if TYPE_CHECKING:
    from lightexp.core.data import Data, Split

_DIRECTIONS: dict[str, Direction] = {"rmse": "min", "mae": "min", "r2": "max"}


@settings_dataclass
class Regression(Task):
    """Numbers, trained by the squared error and measured by its root.

    Targets are standardised by the mean and the standard deviation of the train split, so that a file gives
    `(target - mean) / std`; the record holds both, and metrics are in the targets' own unit. Models from files give
    targets in their own unit.

    Attributes:
        primary: The metric that choices are based on: `rmse`, `mae` or `r2`. Defaults to `rmse`.
        loss: `mse`, `mae` or `huber`, on standardised targets. Defaults to `mse`.
        delta: Error from which Huber's loss is linear, in standard deviations. Defaults to 1.
        standardize: Whether targets are standardised. Defaults to True.
        unit: Unit of the targets, for tables and plots. Defaults to none.

    Example:
        >>> Regression(loss="huber").primary
        'rmse'
    """

    epoch_metric: ClassVar[str] = "mae"
    guess: ClassVar[str] = "always answering with the mean"
    version: ClassVar[int] = 2
    comparisons: ClassVar[Mapping[str, Direction | None]] = {"fidelity/rmse": "min"}
    primary: Literal["rmse", "mae", "r2"] = "rmse"
    loss: Literal["mse", "mae", "huber"] = "mse"
    delta: Positive = 1.0
    standardize: bool = True
    unit: Annotated[str, Field(max_length=20)] = ""

    @property
    def metrics(self) -> Mapping[str, Direction | None]:
        """Names and directions; see `Task.metrics`."""
        return {f"{name}/{split}": direction for name, direction in _DIRECTIONS.items() for split in ("val", "test")}

    @property
    def target_kind(self) -> TargetKind:
        """Numbers; see `Task.target_kind`."""
        return "numbers"

    def prepare(self, data: Data) -> Data:
        """Check the targets and standardise them; see `Task.prepare`."""
        if data.classes:
            fitting = "binary" if data.classes == 2 else "classification"
            raise BadInput(
                f"task=regression needs numbers. Received: {data.classes} classes in {data.name}. Say task={fitting}"
            )
        for name, split in data.splits.items():
            if not np.isfinite(split.y).all():
                raise BadInput(
                    f"task=regression: the targets of the {name} split hold NaN or infinity. Clean them first."
                )
        mean, std = data.train.y.mean(axis=0, dtype=np.float64), data.train.y.std(axis=0, dtype=np.float64)
        if not (std > 0).all():
            raise BadInput(
                f"task=regression: target {int(np.argmin(std))} of {data.name} is constant in the train split, "
                f"{mean[np.argmin(std)]:g}. There is nothing to learn: leave it out."
            )
        data = replace(data, task=self)
        if not self.standardize:
            return data
        train, val, test = (_replace_targets(split, (split.y - mean) / std) for split in data.splits.values())
        note = f"Targets are standardised: target = output * std + mean, with {_format_scaling(mean, std)}."
        scaled = replace(data, train=train, val=val, test=test, notes=(*data.notes, note))
        return replace(scaled, target_scale=tuple(std.tolist()), target_offset=tuple(mean.tolist()))

    def use_own_unit(self, data: Data) -> Data:
        """Return the data with targets in their own unit; see `Task.use_own_unit`."""
        if not data.target_scale:
            return data
        train, val, test = (_replace_targets(split, _restore(split.y, data)) for split in data.splits.values())
        notes = data.notes[:-1]  # without the one on the scaling
        return replace(data, train=train, val=val, test=test, target_scale=(), target_offset=(), notes=notes)

    def count_outputs(self, data: Data) -> int:
        """Return the number of targets; see `Task.count_outputs`."""
        return int(data.train.y.shape[1])

    def describe_outputs(self, data: Data) -> str:
        """Return the number of targets; see `Task.describe_outputs`."""
        count = self.count_outputs(data)
        return "1 target" if count == 1 else f"{count} targets"

    def compute_loss(self, outputs: Any, targets: Any) -> Any:
        """Return the error of standardised targets; see `Task.compute_loss`."""
        from lightexp.backend.losses import compute_regression_loss

        return compute_regression_loss(outputs - targets, self.loss, self.delta)

    def compute_soft_loss(self, teachers: Sequence[Any], outputs: Any, temperature: float) -> Any:
        """Return the error against the mean of the teachers; see `Task.compute_soft_loss`."""
        return self.compute_loss(outputs, sum(teachers) / len(teachers))

    def score_examples(self, outputs: Any, targets: Any, data: Data) -> Any:
        """Return the absolute error in the targets' own unit; see `Task.score_examples`."""
        from lightexp.backend.losses import sum_absolute_errors

        return sum_absolute_errors(outputs - targets, data.target_scale or (1.0,))

    def compute_primary(self, outputs: NDArray[Any], targets: NDArray[Any], data: Data) -> float:
        """Return the primary metric; see `Task.compute_primary`."""
        return _compute(self.primary, _restore(outputs, data), _restore(targets, data))

    def compute_chance(self, targets: NDArray[Any], data: Data) -> float:
        """Return the primary metric of always answering with the mean; see `Task.compute_chance`."""
        own = _restore(targets, data)
        return _compute(self.primary, np.broadcast_to(own.mean(axis=0), own.shape), own)

    def describe_primary(self, data: Data) -> PrimaryMetric:
        """Return the primary metric, and that of always answering with the mean; see `Task.describe_primary`."""
        unit = "" if self.primary == "r2" else self.unit
        reference = self.compute_chance(data.val.y, data)
        return PrimaryMetric(self.primary, _DIRECTIONS[self.primary], reference, unit, is_share=False)

    def measure(self, outputs: Mapping[SplitName, NDArray[Any]], data: Data) -> list[Metric]:
        """Measure all metrics in the targets' own unit; see `Task.measure`."""
        metrics = []
        for split, values in outputs.items():
            predictions, targets = _restore(values, data), _restore(data.splits[split].y, data)
            for name, direction in _DIRECTIONS.items():
                unit = "" if name == "r2" else self.unit
                value = _compute(name, predictions, targets)
                metrics.append(Metric(f"{name}/{split}", value, unit, direction, split, self.version))
        return metrics

    def compare(self, outputs: NDArray[Any], control: NDArray[Any], data: Data) -> list[Metric]:
        """Measure the root mean squared difference to the control; see `Task.compare`."""
        difference = _compute("rmse", _restore(outputs, data), _restore(control, data))
        return [Metric("fidelity/rmse", difference, self.unit, "min", version=self.version)]


def _replace_targets(split: Split, targets: NDArray[Any]) -> Split:
    return replace(split, y=np.ascontiguousarray(targets, np.float32))


def _restore(values: NDArray[Any], data: Data) -> NDArray[np.float64]:
    """Return outputs or targets `(n, targets)` in the targets' own unit."""
    numbers = values.astype(np.float64)
    return numbers * data.target_scale + data.target_offset if data.target_scale else numbers


def _compute(name: str, predictions: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Return a metric of `(n, targets)` by its name; R2 is the mean over the targets."""
    errors = predictions - targets
    if name == "mae":
        return float(np.abs(errors).mean())
    if name == "rmse":
        return float(np.sqrt(np.square(errors).mean()))
    total = np.square(targets - targets.mean(axis=0)).sum(axis=0)
    return float(np.mean(1 - np.square(errors).sum(axis=0) / np.where(total > 0, total, 1.0)))


def _format_scaling(mean: NDArray[np.float64], std: NDArray[np.float64]) -> str:
    means, stds = (", ".join(f"{value:.6g}" for value in values) for values in (mean, std))
    return f"mean {means} and std {stds}"
