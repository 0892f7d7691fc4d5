"""Distillation that also matches the teacher's attention maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from lightexp.core.config import NonNegative, settings_dataclass
from lightexp.objectives.distill import Distillation


@settings_dataclass
class Attention(Distillation):
    """Attention transfer: `Distillation` plus the mean squared difference of attention maps.

    Zagoruyko and Komodakis, "Paying More Attention to Attention", 2017 (arXiv 1612.03928). A layer's map is the mean of
    its squared channels at each position, scaled to length 1, so that model and teacher may differ in channels.

    Attributes:
        layers: Names of the model's layers, each with that of the teacher's layer to match. Defaults to none: see
            `TrainingObjective.matched`.
        beta: Weight of the maps, equal for all layers. Defaults to 1000, as in the paper.
    """

    layers: dict[str, str] = field(default_factory=dict)
    beta: NonNegative = 1000.0

    @property
    def matched(self) -> Mapping[str, str]:
        """Pairs of layers to match; see `TrainingObjective.matched`."""
        return self.layers

    def feature_loss(self, features: Any, teachers: Any) -> Any:
        """Compute the loss of a pair of layers; see `TrainingObjective.feature_loss`."""
        from lightexp.backend.losses import compute_attention_map, compute_mean_squares

        return self.beta * compute_mean_squares(compute_attention_map(features) - compute_attention_map(teachers))
