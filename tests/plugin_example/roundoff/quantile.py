"""A task: a quantile of numbers, such as a delivery time that is met nine times in ten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lightexp.core.config import Fraction
from lightexp.core.data import Data
from lightexp.core.metrics import Metric
from lightexp.core.primary_metric import PrimaryMetric
from lightexp.core.task import Direction, SplitName
from lightexp.tasks.regression import Regression


@dataclass(frozen=True)
class Quantile(Regression):
    """The pinball loss (Koenker and Bassett 1978) of standardised targets, which a quantile minimises."""

    primary: Literal["pinball"] = "pinball"  # type: ignore[assignment]
    quantile: Fraction = 0.9

    @property
    def metrics(self) -> Mapping[str, Direction | None]:
        return {**super().metrics, "pinball/val": "min", "pinball/test": "min"}

    def compute_loss(self, outputs: Any, targets: Any) -> Any:
        import tensorflow as tf

        errors = targets - outputs
        return tf.reduce_mean(tf.maximum(self.quantile * errors, (self.quantile - 1) * errors), axis=1)

    def compute_primary(self, outputs: Any, targets: Any, data: Data) -> float:
        errors = np.asarray(targets, np.float64) - outputs
        return float(np.maximum(self.quantile * errors, (self.quantile - 1) * errors).mean())

    def compute_chance(self, targets: Any, data: Data) -> float:
        return self.compute_primary(np.quantile(targets, self.quantile, axis=0), targets, data)

    def describe_primary(self, data: Data) -> PrimaryMetric:
        return PrimaryMetric("pinball", "min", self.compute_chance(data.val.y, data), is_share=False)

    def measure(self, outputs: Mapping[SplitName, Any], data: Data) -> list[Metric]:
        metrics = [*super().measure(outputs, data)]
        for split, values in outputs.items():
            value = self.compute_primary(values, data.splits[split].y, data)
            metrics.append(Metric(f"pinball/{split}", value, "", "min", split))
        return metrics
