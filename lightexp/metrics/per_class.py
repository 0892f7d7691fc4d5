"""How often the shipped file is right, class by class: compression does not hurt all alike."""

from __future__ import annotations

import numpy as np

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric, Note
from lightexp.metrics.logits import get_split_suffix, load_logits


@settings_dataclass
class PerClass(Measurement):
    """Of each class's examples the share that is put into that class, from 0 to 1.

    `accuracy/class/<name>` on the validation split; `accuracy/class_test/<name>` where the test split may be looked at.
    For records and MLflow; tables do not show it.
    """

    def measure(self, subject: MeasurementContext) -> list[Metric | Note]:
        """Measures `accuracy/class/*`."""
        found: list[Metric | Note] = []
        for split in subject.splits:
            labels = subject.data.splits[split].y
            right = load_logits(subject, split).argmax(axis=1) == labels
            for label, name in enumerate(subject.data.names or map(str, range(subject.data.classes))):
                mine = right[labels == label]
                title = f"accuracy/class{get_split_suffix(split)}/{name}"
                if len(mine):
                    found.append(Metric(title, float(np.mean(mine)), "", "max", split, self.version))
                else:
                    found.append(Note(title, f"the {split} split has no example of it"))
        return found
