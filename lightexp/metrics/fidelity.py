"""Measure how closely the shipped file's predictions follow those of the control."""

from __future__ import annotations

import numpy as np

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric
from lightexp.metrics.logits import compute_log_softmax, get_split_suffix, load_logits


@settings_dataclass
class Fidelity(Measurement):
    """Agreement with the control's top class, and KL divergence from the control's probabilities.

    `fidelity/agreement` is the fraction of examples with the same top class; `fidelity/kl` the mean of
    KL(control || file) between the softmaxes, in nats. Both are measured on the validation split;
    `fidelity/agreement_test` and `fidelity/kl_test` on the test split if it is visible.
    """

    gives = {
        "fidelity/agreement": "max",
        "fidelity/agreement_test": "max",
        "fidelity/kl": "min",
        "fidelity/kl_test": "min",
    }

    def measure(self, context: MeasurementContext) -> list[Metric]:
        """Measure `fidelity/*`."""
        metrics = []
        for name in context.splits:
            logits, control_logits = load_logits(context, name), load_logits(context, name, control=True)
            agreement = float(np.mean(logits.argmax(axis=1) == control_logits.argmax(axis=1)))
            log_target = compute_log_softmax(control_logits)
            kl = float(np.mean((np.exp(log_target) * (log_target - compute_log_softmax(logits))).sum(axis=1)))
            suffix = get_split_suffix(name)
            metrics += [
                Metric(f"fidelity/agreement{suffix}", agreement, "", "max", name, self.version),
                Metric(f"fidelity/kl{suffix}", max(kl, 0.0), "nats", "min", name, self.version),
            ]
        return metrics
