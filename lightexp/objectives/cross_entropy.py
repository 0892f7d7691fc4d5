"""Cross-entropy with the labels, the default training objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import TrainingObjective


@settings_dataclass
class CrossEntropy(TrainingObjective):
    """Cross-entropy between the labels and the softmax of the logits."""

    def loss(self, logits: Any, labels: Any, teachers: Mapping[str, Any]) -> Any:
        """Compute the loss of each example; see `TrainingObjective.loss`."""
        from lightexp.backend.losses import compute_cross_entropy

        return compute_cross_entropy(logits, labels)
