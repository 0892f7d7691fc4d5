"""Cross-entropy with the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightexp.core.protocols import Objective


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Cross-entropy between the labels and the softmax of the logits."""

    def loss(self, logits: Any, labels: Any, teachers: Mapping[str, Any]) -> Any:
        """Loss of each example; see `Objective.loss`."""
        from lightexp.backend.losses import cross_entropy

        return cross_entropy(logits, labels)
