"""Distillation from a teacher's layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightexp.core.config import NonNegative
from lightexp.core.errors import BadInput, nearest
from lightexp.objectives.distill import Distill


@dataclass(frozen=True)
class Hint(Distill):
    """Distillation, and `beta` times how far one of the model's layers is from one of the teacher's.

    Romero et al., "FitNets", 2014 (arXiv 1412.6550): the mean square of the difference, after a trained 1x1 regressor
    from the model's channels to the teacher's; here from the first step on, beside the soft targets. Maps of another
    size are resized. The teacher sees what the model sees, augmented or not.

    Attributes:
        teacher: As in `Distill`, but not a `.tflite`, which has no layers; with several, the first one's layers.
        layers: Names of the model's layers and of the teacher's. Defaults to none: the middle one of the model's layers
            that end in an activation, with the teacher's of that name, or else at the same share of its depth.
        beta: Weight of the layers. Defaults to 1.
    """

    needs_layers = True
    layers: dict[str, str] = field(default_factory=dict)
    beta: NonNegative = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.teacher, str) and self.teacher != "control":
            raise ValueError(
                "a teacher whose layers are looked at must be 'control' or a list of overrides: a file's cannot be. "
                f"Received: {self.teacher}."
            )

    def guide(self, student: Any, teacher: Any) -> Any:
        """Compares layers by a regressor; see `Objective.guide`."""
        from lightexp.backend.guides import Guide, Regressor, activated

        able, there = activated(student), activated(teacher)
        middle = list(able)[(len(able) - 1) // 2 :][:1]
        return Guide(student, teacher, self.pairs(middle, list(able), list(there)), Regressor, self.beta)

    def pairs(self, wanted: Sequence[str], able: Sequence[str], there: Sequence[str]) -> dict[str, str]:
        """The model's layers and the teacher's that are compared.

        Args:
            wanted: The model's, where none are named.
            able: All the model's that could be.
            there: All the teacher's.

        Raises:
            BadInput: If there are none, or a name is not there.
        """
        for name, names in [*((n, able) for n in self.layers), *((n, there) for n in self.layers.values())]:
            if name not in names:
                raise BadInput(f"layers: no layer '{name}' with an activation at its end. {nearest(name, names)}")
        if self.layers:
            return self.layers
        if not wanted or not there:
            raise BadInput(
                "no layers to compare: the model or its teacher has none of the kind that ends in an activation."
            )
        last = max(len(able) - 1, 1)
        return {n: n if n in there else there[round(able.index(n) * (len(there) - 1) / last)] for n in wanted}
