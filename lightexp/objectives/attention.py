"""Distillation from where a teacher looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightexp.core.config import NonNegative
from lightexp.objectives.hint import Hint


@dataclass(frozen=True)
class Attention(Hint):
    """Distillation, and `beta` times how far the model's attention maps are from the teacher's.

    Zagoruyko and Komodakis 2017 (arXiv 1612.03928): a map is the mean square over channels, normalised; the distance
    is the squared difference, summed over the map and over the layers. Maps of another size are resized.

    Attributes:
        layers: As in `Hint`, but defaults to all of the model's layers that end in an activation and make a map.
        beta: Weight of the layers. Defaults to 10.
    """

    beta: NonNegative = 10.0

    def guide(self, student: Any, teacher: Any) -> Any:
        """Compares attention maps; see `Objective.guide`."""
        from lightexp.backend.guides import AttentionMaps, Guide, activated

        able, there = ({n: t for n, t in activated(m).items() if len(t.shape) > 2} for m in (student, teacher))
        return Guide(student, teacher, self.pairs(list(able), list(able), list(there)), AttentionMaps, self.beta)
