"""Binary classification: one logit for each example, and a threshold chosen on the validation split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lightexp.core.config import Positive, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.metrics import Metric, Note
from lightexp.core.primary_metric import PrimaryMetric
from lightexp.core.task import Direction, SplitName, Task
from lightexp.tasks.probabilities import AGREEMENT, add_zero_logit, measure_agreement

if TYPE_CHECKING:
    from lightexp.core.data import Data

_Inner = Annotated[float, Field(gt=0, lt=1)]
_SCORES = ("accuracy", "auc", "average_precision", "f1", "recall_at_fpr")


@settings_dataclass
class Binary(Task):
    """One logit, trained by binary cross-entropy on labels 0 and 1.

    Accuracy and F1 are those at a threshold; ROC AUC, average precision and the recall at a fixed false-positive rate
    need none. `threshold/val` is the threshold, as a probability.

    Attributes:
        primary: The metric that choices are based on. Defaults to `accuracy`.
        pos_weight: Weight of the positive examples in the loss; above 1 where they are rare. Defaults to 1.
        threshold: Probability from which an example counts as positive. Defaults to None: the one at which the file has
            the highest accuracy (or F1, where that is the primary metric) on the validation split.
        fpr: False-positive rate at which `recall_at_fpr` is measured. Defaults to 0.05.

    Example:
        >>> Binary(primary="auc").primary
        'auc'
    """

    activation = "sigmoid"
    epoch_metric: ClassVar[str] = "accuracy"
    has_classes: ClassVar[bool] = True
    version: ClassVar[int] = 2
    comparisons = AGREEMENT
    primary: Literal["accuracy", "auc", "average_precision", "f1"] = "accuracy"
    pos_weight: Positive = 1.0
    threshold: _Inner | None = None
    fpr: _Inner = 0.05

    @property
    def metrics(self) -> Mapping[str, Direction | None]:
        """Names and directions; see `Task.metrics`."""
        scores: dict[str, Direction | None] = {
            f"{name}/{split}": "max" for name in _SCORES for split in ("val", "test")
        }
        return {**scores, "loss/val": "min", "loss/test": "min", "threshold/val": None}

    def prepare(self, data: Data) -> Data:
        """Check that every split has both of two classes; see `Task.prepare`."""
        if data.classes != 2:
            what = f"{data.classes} classes" if data.classes else "numbers"
            fitting = "classification" if data.classes else "regression"
            raise BadInput(f"task=binary needs labels 0 and 1. Received: {what} in {data.name}. Say task={fitting}")
        for name, split in data.splits.items():
            if len(np.unique(split.y)) < 2:
                label = data.names[split.y[0]] if data.names else split.y[0]
                raise BadInput(
                    f"task=binary: the {name} split of {data.name} holds one class only, {label}. Every split needs "
                    "examples of both: use more data, or another dataset.split_seed."
                )
        return replace(data, task=self)

    def count_outputs(self, data: Data) -> int:
        """Return 1; see `Task.count_outputs`."""
        return 1

    def describe_outputs(self, data: Data) -> str:
        """Return the number of classes; see `Task.describe_outputs`."""
        return "2 classes and one output for both"

    def name_outputs(self, data: Data) -> list[str]:
        """Return the name of class 1, which the output stands for; see `Task.name_outputs`."""
        return super().name_outputs(data)[1:]

    def compute_loss(self, outputs: Any, targets: Any) -> Any:
        """Return the weighted cross-entropy; see `Task.compute_loss`."""
        from lightexp.backend.losses import compute_binary_cross_entropy

        return compute_binary_cross_entropy(outputs, targets, self.pos_weight)

    def compute_soft_loss(self, teachers: Sequence[Any], outputs: Any, temperature: float) -> Any:
        """Return the divergence from the teachers' probabilities; see `Task.compute_soft_loss`."""
        from lightexp.backend.losses import compute_soft_divergence, pair_logits

        return compute_soft_divergence(
            [pair_logits(teacher) for teacher in teachers], pair_logits(outputs), temperature
        )

    def score_examples(self, outputs: Any, targets: Any, data: Data) -> Any:
        """Return the number of correct answers at a probability of 0.5; see `Task.score_examples`."""
        from lightexp.backend.losses import count_correct, pair_logits

        return count_correct(pair_logits(outputs), targets)

    def compute_primary(self, outputs: NDArray[Any], targets: NDArray[Any], data: Data) -> float:
        """Return the primary metric, at the best threshold unless one is set; see `Task.compute_primary`."""
        scores = outputs[:, 0]
        return self._compute(self.primary, scores, targets, self._choose_threshold(scores, targets))

    def compute_chance(self, targets: NDArray[Any], data: Data) -> float:
        """Return the primary metric of answers that are all the same; see `Task.compute_chance`."""
        positive = float(np.mean(targets))
        chances = {
            "accuracy": max(positive, 1 - positive),
            "auc": 0.5,
            "average_precision": positive,
            "f1": 2 * positive / (1 + positive),
        }
        return chances[self.primary]

    def describe_primary(self, data: Data) -> PrimaryMetric:
        """Return the primary metric, and that of answers that are all the same; see `Task.describe_primary`."""
        reference = self.compute_chance(data.val.y, data)
        return PrimaryMetric(self.primary, "max", reference, is_share=self.primary == "accuracy")

    def measure(self, outputs: Mapping[SplitName, NDArray[Any]], data: Data) -> list[Metric | Note]:
        """Measure all metrics at the threshold of the validation split; see `Task.measure`."""
        threshold = self._choose_threshold(outputs["val"][:, 0], data.val.y)
        metrics: list[Metric | Note] = [
            Metric("threshold/val", _to_probability(threshold), "", None, "val", self.version)
        ]
        for split, logits in outputs.items():
            scores, labels = logits[:, 0], data.splits[split].y
            for name in _SCORES:
                value = self._compute(name, scores, labels, threshold)
                metrics.append(Metric(f"{name}/{split}", value, "", "max", split, self.version))
            loss = self._compute_mean_loss(scores, labels)
            metrics.append(Metric(f"loss/{split}", loss, "nats", "min", split, self.version))
            if scores.max() < threshold:
                limit = _to_probability(threshold)
                metrics.append(Note(f"f1/{split}", f"no example counts as positive at the threshold {limit:.6g}"))
        return metrics

    def compare(self, outputs: NDArray[Any], control: NDArray[Any], data: Data) -> list[Metric]:
        """Measure agreement at a probability of 0.5, and divergence; see `Task.compare`."""
        return measure_agreement(add_zero_logit(outputs), add_zero_logit(control), self.version)

    def compute_class_logits(self, outputs: NDArray[Any]) -> NDArray[Any] | None:
        """Return logits of both classes; see `Task.compute_class_logits`."""
        return add_zero_logit(outputs)

    def predict_classes(
        self, outputs: Mapping[SplitName, NDArray[Any]], data: Data
    ) -> Mapping[SplitName, NDArray[Any]]:
        """Return the classes at the threshold of the validation split; see `Task.predict_classes`."""
        threshold = self._choose_threshold(outputs["val"][:, 0], data.val.y)
        return {split: (logits[:, 0] >= threshold).astype(np.int32) for split, logits in outputs.items()}

    def _compute(self, name: str, scores: NDArray[Any], labels: NDArray[Any], threshold: float) -> float:
        """Return a metric of scores `(n,)` and labels `(n,)` by its name."""
        from sklearn import metrics  # takes seconds to import

        if name == "accuracy":
            return float(np.mean((scores >= threshold) == labels))
        if name == "f1":
            return float(metrics.f1_score(labels, scores >= threshold, zero_division=0.0))
        if name == "auc":
            return float(metrics.roc_auc_score(labels, scores))
        if name == "average_precision":
            return float(metrics.average_precision_score(labels, scores))
        false_positives, true_positives, _ = metrics.roc_curve(labels, scores)
        return float(true_positives[false_positives <= self.fpr].max())

    def _compute_mean_loss(self, scores: NDArray[Any], labels: NDArray[Any]) -> float:
        logits = scores.astype(np.float64)
        positive, negative = np.logaddexp(0, -logits), np.logaddexp(0, logits)
        return float(np.mean(np.where(labels == 1, self.pos_weight * positive, negative)))

    def _choose_threshold(self, scores: NDArray[Any], labels: NDArray[Any]) -> float:
        """Return the logit from which an example counts as positive: the best one for these labels, unless it is set.

        Among equally good thresholds it is the one nearest to 0, a probability of 0.5.
        """
        if self.threshold is not None:
            return math.log(self.threshold / (1 - self.threshold))
        order = np.argsort(-scores, kind="stable")
        ranked, positives = scores[order].astype(np.float64), np.cumsum(labels[order] == 1)
        counts, total = np.arange(1, len(ranked) + 1), positives[-1]
        if self.primary == "f1":
            quality = np.concatenate([[0.0], 2 * positives / (counts + total)])
        else:
            quality = np.concatenate([[0.0], 2.0 * positives - counts])  # correct answers, less those at none positive
        # One threshold above all scores, between each two neighbours, and below all scores; none within equal scores.
        candidates = np.concatenate([[ranked[0] + 1], (ranked[:-1] + ranked[1:]) / 2, [ranked[-1] - 1]])
        is_cut = np.concatenate([[True], ranked[:-1] > ranked[1:], [True]])
        best = candidates[is_cut & (quality == quality[is_cut].max())]
        return float(best[np.argmin(np.abs(best))])


def _to_probability(logit: float) -> float:
    return float(1 / (1 + np.exp(-np.float64(logit))))
