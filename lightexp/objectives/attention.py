"""Distillation from where a teacher looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from lightexp.core.config import NonNegative, settings_dataclass
from lightexp.objectives.distill import Distill


@settings_dataclass
class Attention(Distill):
    """Adds to `Distill` the mean squared difference between attention maps and the teacher's.

    Zagoruyko and Komodakis, "Paying More Attention to Attention", 2017 (arXiv 1612.03928). A layer's map is the mean of
    its squared channels at each position, scaled to length 1, so that model and teacher may differ in channels.

    Attributes:
        layers: The model's layers and the teacher's that they are to be like, by name. Defaults to none: see
            `Objective.matched`.
        beta: Weight of the maps, each layer alike. Defaults to the paper's 1000.
    """

    layers: dict[str, str] = field(default_factory=dict)
    beta: NonNegative = 1000.0

    @property
    def matched(self) -> Mapping[str, str]:
        """The pairs of layers; see `Objective.matched`."""
        return self.layers

    def feature_loss(self, features: Any, teachers: Any) -> Any:
        """Loss of one pair of layers; see `Objective.feature_loss`."""
        from lightexp.backend.losses import compute_attention_map, compute_mean_squares

        return self.beta * compute_mean_squares(compute_attention_map(features) - compute_attention_map(teachers))
