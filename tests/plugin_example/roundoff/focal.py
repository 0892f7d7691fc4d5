"""A training objective: the focal loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightexp.core.config import NonNegative
from lightexp.core.protocols import TrainingObjective


@dataclass(frozen=True)
class Focal(TrainingObjective):
    """Focal loss (Lin et al. 2017, arXiv 1708.02002): `(1 - p)^gamma * -log p` of the label's probability p."""

    gamma: NonNegative = 2.0

    def loss(self, logits: Any, labels: Any, teachers: Mapping[str, Any]) -> Any:
        import tensorflow as tf

        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return (1 - tf.exp(-loss)) ** self.gamma * loss
