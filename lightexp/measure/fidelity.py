"""How faithful the shipped file is to the control, whether that is right or wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightexp.core.protocols import Figure, Measurement, Subject
from lightexp.measure.outputs import log_softmax, logits, suffix


@dataclass(frozen=True)
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

    def measure(self, subject: Subject) -> list[Figure]:
        """Measures `fidelity/*`."""
        figures = []
        for name in subject.splits:
            mine, controls = logits(subject, name), logits(subject, name, control=True)
            same = float(np.mean(mine.argmax(axis=1) == controls.argmax(axis=1)))
            target = log_softmax(controls)
            kl = float(np.mean((np.exp(target) * (target - log_softmax(mine))).sum(axis=1)))
            figures += [
                Figure(f"fidelity/agreement{suffix(name)}", same, "", "max", name, self.version),
                Figure(f"fidelity/kl{suffix(name)}", max(kl, 0.0), "nats", "min", name, self.version),
            ]
        return figures
