"""Distillation from a teacher's hidden layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

from lightexp.core.config import NonNegative, settings_dataclass
from lightexp.objectives.distill import Distill


@settings_dataclass
class Hint(Distill):
    """Adds to `Distill` half the mean squared difference between hidden layers and the teacher's.

    Romero et al., "FitNets: Hints for Thin Deep Nets", 2015 (arXiv 1412.6550). A 1x1 convolution, trained with the
    model and then thrown away, brings the model's channels to the teacher's. The paper trains on the hint first and on
    the soft targets after; here the two are one loss.

    Attributes:
        layers: The model's layers and the teacher's that they are to be like, by name. Defaults to none: see
            `Objective.matched`.
        weight: Of the hints, each layer alike. Defaults to 1.
    """

    adapts: ClassVar[bool] = True
    layers: dict[str, str] = field(default_factory=dict)
    weight: NonNegative = 1.0

    @property
    def matched(self) -> Mapping[str, str]:
        """The pairs of layers; see `Objective.matched`."""
        return self.layers

    def feature_loss(self, features: Any, teachers: Any) -> Any:
        """Loss of one pair of layers; see `Objective.feature_loss`."""
        from lightexp.backend.losses import compute_mean_squares

        return self.weight / 2 * compute_mean_squares(features - teachers)
