"""Measure the accuracy of the shipped file for each class, since compression may harm some classes more."""

from __future__ import annotations

from lightexp.core.class_counts import count_classes
from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric, Note
from lightexp.metrics.logits import get_split_suffix, load_logits


@settings_dataclass
class PerClass(Measurement):
    """Fraction of each class's examples that are classified correctly, from 0 to 1; nothing where there are no classes.

    `accuracy/class/<name>` on the validation split; `accuracy/class_test/<name>` on the test split if it is visible.
    Logged to records and MLflow; not shown in tables.
    """

    def measure(self, context: MeasurementContext) -> list[Metric | Note]:
        """Measure `accuracy/class/*`."""
        results: list[Metric | Note] = []
        outputs = {split: load_logits(context, split) for split in context.splits}
        names = context.data.names or list(map(str, range(context.data.classes)))
        for split, predictions in context.data.task.predict_classes(outputs, context.data).items():
            counts = count_classes(predictions, context.data.splits[split].y, len(names))
            for label, class_name in enumerate(names):
                name = f"accuracy/class{get_split_suffix(split)}/{class_name}"
                if counts.present[label]:
                    accuracy = float(counts.correct[label] / counts.present[label])
                    results.append(Metric(name, accuracy, "", "max", split, self.version))
                else:
                    results.append(Note(name, f"the {split} split has no example of it"))
        return results
