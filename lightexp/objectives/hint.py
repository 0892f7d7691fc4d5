"""Distillation that also matches the teacher's hidden layers (FitNets)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

from lightexp.core.config import NonNegative, settings_dataclass
from lightexp.objectives.distill import Distillation


@settings_dataclass
class Hint(Distillation):
    """Hints: `Distillation` plus half the mean squared difference between hidden layers and the teacher's.

    Romero et al., "FitNets: Hints for Thin Deep Nets", 2015 (arXiv 1412.6550). A 1x1 convolution, trained with the
    model and discarded afterwards, maps the model's channels to the teacher's. The paper trains on the hint first and
    on the soft targets afterwards; here both are one loss.

    Attributes:
        layers: Names of the model's layers, each with that of the teacher's layer to match. Defaults to none: see
            `TrainingObjective.matched`.
        weight: Weight of the hints, equal for all layers. Defaults to 1.
    """

    adapts: ClassVar[bool] = True
    layers: dict[str, str] = field(default_factory=dict)
    weight: NonNegative = 1.0

    @property
    def matched(self) -> Mapping[str, str]:
        """Pairs of layers to match; see `TrainingObjective.matched`."""
        return self.layers

    def feature_loss(self, features: Any, teachers: Any) -> Any:
        """Compute the loss of a pair of layers; see `TrainingObjective.feature_loss`."""
        from lightexp.backend.losses import compute_mean_squares

        return self.weight / 2 * compute_mean_squares(features - teachers)
