"""Classification: one class of several for each example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from lightexp.core.class_counts import count_classes
from lightexp.core.config import settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.metrics import Metric
from lightexp.core.primary_metric import PrimaryMetric
from lightexp.core.task import Direction, SplitName, Task
from lightexp.tasks.probabilities import AGREEMENT, compute_cross_entropy, compute_top_k, measure_agreement

if TYPE_CHECKING:
    from lightexp.core.data import Data

_TOP = 5
_TOP_FROM = 10  # with no more classes than these, the five likeliest say little
_SCORES = ("accuracy", "balanced_accuracy", "f1_macro")


@settings_dataclass
class Classification(Task):
    """A logit for each class, trained by cross-entropy with the labels and measured by accuracy.

    Accuracies are fractions from 0 to 1, losses are nats per example. With more than ten classes, `accuracy/top5` is
    the fraction of test examples whose label is among the five most likely classes. `balanced_accuracy` is the mean of
    the accuracies of the classes, and `f1_macro` the mean of their F1, for classes of different numbers of examples.

    Attributes:
        primary: The metric that choices are based on. Defaults to `accuracy`.

    Example:
        >>> Classification(primary="balanced_accuracy") == Classification()
        False
    """

    activation = "softmax"
    epoch_metric: ClassVar[str] = "accuracy"
    has_classes: ClassVar[bool] = True
    comparisons = AGREEMENT
    primary: Literal["accuracy", "balanced_accuracy", "f1_macro"] = "accuracy"

    @property
    def metrics(self) -> Mapping[str, Direction | None]:
        """Names and directions; see `Task.metrics`."""
        scores: dict[str, Direction | None] = {
            f"{name}/{split}": "max" for name in _SCORES for split in ("val", "test")
        }
        return {**scores, "accuracy/top5": "max", "loss/val": "min", "loss/test": "min"}

    def prepare(self, data: Data) -> Data:
        """Check that the targets are labels, which the data set has numbered; see `Task.prepare`."""
        if not data.classes:
            raise BadInput(
                f"task=classification needs class labels. Received: numbers in {data.name}. Say task=regression"
            )
        return replace(data, task=self)

    def count_outputs(self, data: Data) -> int:
        """Return the number of classes; see `Task.count_outputs`."""
        return data.classes

    def describe_outputs(self, data: Data) -> str:
        """Return the number of classes; see `Task.describe_outputs`."""
        return f"{data.classes} classes"

    def compute_loss(self, outputs: Any, targets: Any) -> Any:
        """Return the cross-entropy; see `Task.compute_loss`."""
        from lightexp.backend.losses import compute_cross_entropy

        return compute_cross_entropy(outputs, targets)

    def compute_soft_loss(self, teachers: Sequence[Any], outputs: Any, temperature: float) -> Any:
        """Return the divergence from the teachers' softmax; see `Task.compute_soft_loss`."""
        from lightexp.backend.losses import compute_soft_divergence

        return compute_soft_divergence(teachers, outputs, temperature)

    def score_examples(self, outputs: Any, targets: Any, data: Data) -> Any:
        """Return the number of correct answers; see `Task.score_examples`."""
        from lightexp.backend.losses import count_correct

        return count_correct(outputs, targets)

    def compute_primary(self, outputs: NDArray[Any], targets: NDArray[Any], data: Data) -> float:
        """Return the primary metric; see `Task.compute_primary`."""
        return _compute_scores(outputs, targets)[self.primary]

    def compute_chance(self, targets: NDArray[Any], data: Data) -> float:
        """Return the primary metric of always answering with the most frequent class; see `Task.compute_chance`."""
        share, present = np.bincount(targets).max() / len(targets), len(np.unique(targets))
        chances = {
            "accuracy": share,
            "balanced_accuracy": 1 / present,
            "f1_macro": 2 * share / (1 + share) / present,
        }
        return float(chances[self.primary])

    def describe_primary(self, data: Data) -> PrimaryMetric:
        """Return the primary metric, and that of drawing a class; see `Task.describe_primary`."""
        return PrimaryMetric(self.primary, reference=1 / data.classes, is_share=self.primary != "f1_macro")

    def measure(self, outputs: Mapping[SplitName, NDArray[Any]], data: Data) -> list[Metric]:
        """Measure accuracies, F1 and loss; see `Task.measure`."""
        metrics = []
        for name, logits in outputs.items():
            labels = data.splits[name].y
            for score, value in _compute_scores(logits, labels).items():
                metrics.append(Metric(f"{score}/{name}", value, "", "max", name, self.version))
            loss = compute_cross_entropy(logits, labels)
            metrics.append(Metric(f"loss/{name}", loss, "nats", "min", name, self.version))
            if name == "test" and data.classes > _TOP_FROM:
                top5 = compute_top_k(logits, labels, _TOP)
                metrics.append(Metric("accuracy/top5", top5, "", "max", name, self.version))
        return metrics

    def compare(self, outputs: NDArray[Any], control: NDArray[Any], data: Data) -> list[Metric]:
        """Measure agreement and divergence; see `Task.compare`."""
        return measure_agreement(outputs, control, self.version)

    def compute_class_logits(self, outputs: NDArray[Any]) -> NDArray[Any] | None:
        """Return the outputs, which are logits; see `Task.compute_class_logits`."""
        return outputs


def _compute_scores(logits: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """Return the metrics `_SCORES`; as in scikit-learn, whose import takes seconds.

    A class without examples has no accuracy, and one that is neither present nor predicted has no F1.
    """
    counts = count_classes(logits, labels, logits.shape[1])
    present, total = counts.present, counts.present + counts.predicted
    values = (
        counts.correct.sum() / len(labels),
        np.mean(counts.correct[present > 0] / present[present > 0]),
        np.mean(2 * counts.correct[total > 0] / total[total > 0]),
    )
    return {name: float(value) for name, value in zip(_SCORES, values, strict=True)}
