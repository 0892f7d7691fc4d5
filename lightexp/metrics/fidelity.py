"""How faithful the shipped file is to the control, whether that is right or wrong."""

from __future__ import annotations

import numpy as np

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric
from lightexp.metrics.logits import compute_log_softmax, get_split_suffix, load_logits


@settings_dataclass
class Fidelity(Measurement):
    """Agreement with the control's top class, and the divergence of the file's probabilities from the control's.

    `fidelity/agreement` is the share of examples for which both put the same class first; `fidelity/kl` the mean of
    KL(control || file) between the softmaxes, in nats. On the validation split; on the test split, where it may be
    looked at, `fidelity/agreement_test` and `fidelity/kl_test`.
    """

    gives = {
        "fidelity/agreement": "max",
        "fidelity/agreement_test": "max",
        "fidelity/kl": "min",
        "fidelity/kl_test": "min",
    }

    def measure(self, subject: MeasurementContext) -> list[Metric]:
        """Measures `fidelity/*`."""
        figures = []
        for name in subject.splits:
            mine, controls = load_logits(subject, name), load_logits(subject, name, control=True)
            same = float(np.mean(mine.argmax(axis=1) == controls.argmax(axis=1)))
            target = compute_log_softmax(controls)
            kl = float(np.mean((np.exp(target) * (target - compute_log_softmax(mine))).sum(axis=1)))
            figures += [
                Metric(f"fidelity/agreement{get_split_suffix(name)}", same, "", "max", name, self.version),
                Metric(f"fidelity/kl{get_split_suffix(name)}", max(kl, 0.0), "nats", "min", name, self.version),
            ]
        return figures
