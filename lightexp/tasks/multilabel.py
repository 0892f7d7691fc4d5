"""Multi-label classification: a logit for each of several labels that do not exclude each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lightexp.core.config import settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.metrics import Metric
from lightexp.core.primary_metric import PrimaryMetric
from lightexp.core.task import Direction, SplitName, TargetKind, Task
from lightexp.tasks.classes import ClassName, find_classes
from lightexp.tasks.probabilities import AGREEMENT, add_zero_logit, measure_agreement

if TYPE_CHECKING:
    from lightexp.core.data import Data

_SCORES = ("average_precision", "average_precision_micro", "f1", "f1_micro", "subset_accuracy")


@settings_dataclass
class Multilabel(Task):
    """A logit for each label, trained by the mean of the labels' binary cross-entropies.

    Average precision and F1 are means over the labels (macro); with `_micro` all labels of all examples are counted
    together. `subset_accuracy` is the share of examples all of whose labels are right. Targets are `(n, labels)` of 0
    and 1; or `labels` makes them from classes.

    Attributes:
        primary: The metric that choices are based on. Defaults to `average_precision`.
        threshold: Probability from which a label is given, for F1 and subset accuracy. Defaults to 0.5.
        labels: Labels to make from a data set of classes: each with the classes (numbers or names) that have it.
            Defaults to None: the data have a column for each label.

    Example:
        >>> Multilabel(labels={"shoe": [5, 7, 9], "warm": [2, 4, 9]}).target_kind
        'labels'
    """

    activation = "sigmoid"
    epoch_metric: ClassVar[str] = "subset_accuracy"
    has_classes: ClassVar[bool] = True
    guess: ClassVar[str] = "always giving the same labels"
    comparisons = AGREEMENT
    primary: Literal["average_precision", "average_precision_micro", "f1", "f1_micro", "subset_accuracy"] = (
        "average_precision"
    )
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    labels: dict[str, list[ClassName]] | None = None

    @property
    def metrics(self) -> Mapping[str, Direction | None]:
        """Names and directions; see `Task.metrics`."""
        scores: dict[str, Direction | None] = {
            f"{name}/{split}": "max" for name in _SCORES for split in ("val", "test")
        }
        return {**scores, "loss/val": "min", "loss/test": "min"}

    @property
    def target_kind(self) -> TargetKind:
        """A column for each label, or the classes to make them from; see `Task.target_kind`."""
        return "labels" if self.labels else "indicators"

    def prepare(self, data: Data) -> Data:
        """Make the labels from classes, if asked for, and check them; see `Task.prepare`."""
        if self.labels:
            data = self._make_labels(data, self.labels)
        if data.classes:
            raise BadInput(
                f"task=multilabel needs a 0 or 1 for each label, (n, labels). Received: one of {data.classes} classes "
                f"for each example of {data.name}. Say task=classification, or make labels from classes: "
                "'task.labels={NAME: [0, 2], OTHER: [1]}'"
            )
        for name, split in data.splits.items():
            if not np.isin(split.y, (0, 1)).all():
                raise BadInput(
                    f"task=multilabel needs 0 or 1 for each label. Received: {split.y[~np.isin(split.y, (0, 1))][0]:g} "
                    f"in the {name} split of {data.name}. To learn numbers, say task=regression."
                )
            positives = split.y.sum(axis=0)
            for label in np.flatnonzero((positives == 0) | (positives == len(split))):
                title = data.names[label] if data.names else f"number {label}"
                raise BadInput(
                    f"task=multilabel: label {title} of {data.name} is always {int(split.y[0, label])} in the {name} "
                    "split. Every split needs examples with and without it: use more data, or leave it out."
                )
        names = data.names or tuple(map(str, range(data.train.y.shape[1])))
        return replace(data, task=self, names=names)

    def count_outputs(self, data: Data) -> int:
        """Return the number of labels; see `Task.count_outputs`."""
        return int(data.train.y.shape[1])

    def describe_outputs(self, data: Data) -> str:
        """Return the number of labels; see `Task.describe_outputs`."""
        count = self.count_outputs(data)
        return "1 label" if count == 1 else f"{count} labels"

    def compute_loss(self, outputs: Any, targets: Any) -> Any:
        """Return the mean cross-entropy of the labels; see `Task.compute_loss`."""
        from lightexp.backend.losses import compute_label_cross_entropy

        return compute_label_cross_entropy(outputs, targets)

    def compute_soft_loss(self, teachers: Sequence[Any], outputs: Any, temperature: float) -> Any:
        """Return the mean divergence from the teachers' sigmoids; see `Task.compute_soft_loss`."""
        from lightexp.backend.losses import compute_label_divergence

        return compute_label_divergence(teachers, outputs, temperature)

    def score_examples(self, outputs: Any, targets: Any, data: Data) -> Any:
        """Return the number of examples with all labels right; see `Task.score_examples`."""
        from lightexp.backend.losses import count_correct_sets

        return count_correct_sets(outputs, targets, self._threshold_logit)

    def compute_primary(self, outputs: NDArray[Any], targets: NDArray[Any], data: Data) -> float:
        """Return the primary metric; see `Task.compute_primary`."""
        return self._compute(self.primary, outputs, targets)

    def compute_chance(self, targets: NDArray[Any], data: Data) -> float:
        """Return the primary metric of answers that are all the same; see `Task.compute_chance`."""
        if self.primary == "subset_accuracy":
            return float(np.unique(targets, axis=0, return_counts=True)[1].max() / len(targets))
        shares = targets.mean(axis=0) if not self.primary.endswith("_micro") else np.array([targets.mean()])
        return float(np.mean(shares if self.primary.startswith("average") else 2 * shares / (1 + shares)))

    def describe_primary(self, data: Data) -> PrimaryMetric:
        """Return the primary metric, and that of answers that are all the same; see `Task.describe_primary`."""
        reference = self.compute_chance(data.val.y, data)
        return PrimaryMetric(self.primary, "max", reference, is_share=self.primary == "subset_accuracy")

    def measure(self, outputs: Mapping[SplitName, NDArray[Any]], data: Data) -> list[Metric]:
        """Measure all metrics; see `Task.measure`."""
        metrics = []
        for split, logits in outputs.items():
            targets = data.splits[split].y
            for name in _SCORES:
                value = self._compute(name, logits, targets)
                metrics.append(Metric(f"{name}/{split}", value, "", "max", split, self.version))
            loss = float(np.mean(np.logaddexp(0, np.where(targets == 1, -1, 1) * logits.astype(np.float64))))
            metrics.append(Metric(f"loss/{split}", loss, "nats", "min", split, self.version))
        return metrics

    def compare(self, outputs: NDArray[Any], control: NDArray[Any], data: Data) -> list[Metric]:
        """Measure the share of labels at a probability of 0.5 that agree, and divergence; see `Task.compare`."""
        own, expected = (add_zero_logit(values.reshape(-1, 1)) for values in (outputs, control))
        return measure_agreement(own, expected, self.version)

    def compute_class_logits(self, outputs: NDArray[Any]) -> NDArray[Any] | None:
        """Return the logits of absence and presence of each label; see `Task.compute_class_logits`."""
        return add_zero_logit(outputs.reshape(-1, 1))

    def predict_classes(
        self, outputs: Mapping[SplitName, NDArray[Any]], data: Data
    ) -> Mapping[SplitName, NDArray[Any]]:
        """Return nothing: an example has no single class; see `Task.predict_classes`."""
        return {}

    @property
    def _threshold_logit(self) -> float:
        return math.log(self.threshold / (1 - self.threshold))

    def _make_labels(self, data: Data, labels: Mapping[str, Sequence[ClassName]]) -> Data:
        """Return data of classes with a column for each label."""
        if not data.classes:
            raise BadInput(f"task.labels makes labels from classes, which {data.name} has not. Leave task.labels out.")
        has_label = np.zeros((data.classes, len(labels)), np.float32)
        for column, (name, classes) in enumerate(labels.items()):
            has_label[find_classes(classes, data, f"task.labels.{name}"), column] = 1
        train, val, test = (replace(split, y=has_label[split.y]) for split in data.splits.values())
        return replace(data, train=train, val=val, test=test, classes=0, names=tuple(labels))

    def _compute(self, name: str, logits: NDArray[Any], targets: NDArray[Any]) -> float:
        """Return a metric of logits and targets `(n, labels)` by its name."""
        given, average = logits >= self._threshold_logit, "micro" if name.endswith("_micro") else "macro"
        if name == "subset_accuracy":
            return float(np.mean((given == targets).all(axis=1)))
        if name.startswith("f1"):
            axis = None if average == "micro" else 0
            hits, total = np.sum(given & (targets == 1), axis), np.sum(given, axis) + np.sum(targets == 1, axis)
            return float(np.mean(2 * hits / np.maximum(total, 1)))  # 0 where a label neither is given nor belongs
        present = targets.any(axis=0)  # a sample may lack a rare label
        if not present.any():
            return 0.0
        from sklearn.metrics import average_precision_score  # takes seconds to import

        return float(average_precision_score(targets[:, present], logits[:, present], average=average))
