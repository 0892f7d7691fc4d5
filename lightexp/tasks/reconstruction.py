"""Reconstruction: a model that gives its inputs back, and whose error tells anomalous examples from normal ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import Share, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.memmap import map_chunks, read_rows
from lightexp.core.metrics import Metric, Note
from lightexp.core.primary_metric import PrimaryMetric
from lightexp.core.task import Direction, SplitName, TargetKind, Task
from lightexp.tasks.classes import ClassName, find_classes

if TYPE_CHECKING:
    from lightexp.core.data import Data, Split


@settings_dataclass
class Reconstruction(Task):
    """The scaled inputs as outputs, trained on normal examples only.

    The primary metric is the mean squared error of normal validation examples. An example's mean squared error is also
    its anomaly score: where the test split has anomalous examples, ROC AUC and the standardised partial AUC of the
    scores are measured, over all test examples and for each group, such as a machine's id, as in DCASE and MLPerf Tiny.
    Anomalous examples of the train and validation splits are left out, so that nothing is chosen by them.

    Attributes:
        loss: `mse` or `mae`, of scaled inputs. Defaults to `mse`.
        normal: The classes (numbers or names) whose examples are normal; those of the other classes are anomalous.
            Defaults to None: of two classes, 0 is normal and 1 anomalous; without classes, all examples are normal.
        max_fpr: False-positive rate up to which the partial AUC is taken. Defaults to 0.1.

    Example:
        >>> Reconstruction(normal=[0]).primary
        'mse'
    """

    epoch_metric: ClassVar[str] = "mse"
    learns_inputs: ClassVar[bool] = True
    guess: ClassVar[str] = "always answering with the mean"
    comparisons: ClassVar[Mapping[str, Direction | None]] = {"fidelity/rmse": "min"}
    loss: Literal["mse", "mae"] = "mse"
    normal: list[ClassName] | None = None
    max_fpr: Share = 0.1

    @property
    def primary(self) -> str:
        """Mean squared error; see `Task.primary`."""
        return "mse"

    @property
    def metrics(self) -> Mapping[str, Direction | None]:
        """Names and directions; those of groups begin with `auc/group_test/`; see `Task.metrics`."""
        return {"mse/val": "min", "mse/test": "min", "auc/test": "max", "partial_auc/test": "max"}

    @property
    def target_kind(self) -> TargetKind:
        """Classes, where there are some; see `Task.target_kind`."""
        return "anomalies"

    def prepare(self, data: Data) -> Data:
        """Find the anomalous examples, and leave those of the train and validation splits out; see `Task.prepare`."""
        if data.augment.mixup:
            raise BadInput("dataset.augment.mixup mixes targets, and task=reconstruction learns inputs. Leave it out.")
        is_anomalous, notes = self._find_anomalous_classes(data), []
        splits = {}
        for name, split in data.splits.items():
            anomalous = np.zeros(len(split), bool)
            if split.y.ndim == 1:  # numbers are no classes
                anomalous[split.y >= 0] = is_anomalous[split.y[split.y >= 0]]
            if anomalous.all():
                raise BadInput(
                    f"task=reconstruction: the {name} split of {data.name} holds no normal example. "
                    "Add some, or set task.normal=[CLASS, ...]."
                )
            splits[name] = replace(split, y=anomalous.astype(np.int32))
            if name != "test" and anomalous.any():
                splits[name] = _select_rows(splits[name], np.flatnonzero(~anomalous))
                notes.append(f"Left out of the {name} split, as only normal examples are learnt: {anomalous.sum()}.")
        if self.normal is None and data.names:
            notes.insert(0, f"Examples of {data.names[0]} are normal, those of {data.names[1]} anomalous.")
        if not splits["test"].y.any():
            notes.append("No test example is known to be anomalous: errors are measured, and no AUC.")
        train, val, test = splits.values()
        notes = [*data.notes, *notes]
        return replace(data, train=train, val=val, test=test, classes=0, names=(), notes=tuple(notes), task=self)

    def _find_anomalous_classes(self, data: Data) -> NDArray[np.bool_]:
        """Return whether each class is anomalous, `(classes,)`.

        Raises:
            BadInput: If `normal` does not say so.
        """
        if self.normal is None and data.classes > 2:
            raise BadInput(
                f"task=reconstruction: which of the {data.classes} classes of {data.name} are normal? "
                "Set task.normal=[CLASS, ...]"
            )
        if self.normal is not None and not data.classes:
            raise BadInput(f"task.normal names classes, which {data.name} has not. Leave it out.")
        is_anomalous = np.ones(max(data.classes, 1), bool)
        is_anomalous[[0] if self.normal is None else find_classes(self.normal, data, "task.normal")] = False
        return is_anomalous

    def count_outputs(self, data: Data) -> int:
        """Return the number of an example's values; see `Task.count_outputs`."""
        return math.prod(data.shape)

    def describe_outputs(self, data: Data) -> str:
        """Return the number of an example's values; see `Task.describe_outputs`."""
        return f"{self.count_outputs(data)} inputs to give back"

    def compute_loss(self, outputs: Any, targets: Any) -> Any:
        """Return the error of the inputs; see `Task.compute_loss`."""
        from lightexp.backend.losses import compute_regression_loss

        return compute_regression_loss(outputs - targets, self.loss, delta=1.0)

    def compute_soft_loss(self, teachers: Sequence[Any], outputs: Any, temperature: float) -> Any:
        """Return the error against the mean of the teachers; see `Task.compute_soft_loss`."""
        return self.compute_loss(outputs, sum(teachers) / len(teachers))

    def score_examples(self, outputs: Any, targets: Any, data: Data) -> Any:
        """Return the sum of mean squared errors; see `Task.score_examples`."""
        from lightexp.backend.losses import sum_mean_squares

        return sum_mean_squares(outputs - targets)

    def compute_primary(self, outputs: NDArray[Any], targets: NDArray[Any], data: Data) -> float:
        """Return the mean squared error; see `Task.compute_primary`."""
        return float(_compute_errors(outputs, targets).mean())

    def compute_chance(self, targets: NDArray[Any], data: Data) -> float:
        """Return the mean squared error of always answering with the mean; see `Task.compute_chance`."""
        return float(_compute_errors(targets, targets.mean(axis=0, dtype=np.float64).astype(np.float32)).mean())

    def describe_primary(self, data: Data) -> PrimaryMetric:
        """Return the mean squared error, and that of the mean; see `Task.describe_primary`."""
        reference = self.compute_chance(data.compute_targets(data.val), data)
        return PrimaryMetric("mse", "min", reference, is_share=False)

    def measure(self, outputs: Mapping[SplitName, NDArray[Any]], data: Data) -> Sequence[Metric | Note]:
        """Measure the errors of normal examples, and how well errors tell anomalous ones; see `Task.measure`."""
        results: list[Metric | Note] = []
        for name, values in outputs.items():
            split = data.splits[name]
            errors = _compute_errors(values, data.compute_targets(split))
            normal_error = float(errors[split.y == 0].mean())
            results.append(Metric(f"mse/{name}", normal_error, "", "min", name, self.version))
            if name == "test" and split.y.any():
                results += self._score(errors, split)
        return results

    def _score(self, errors: NDArray[np.float64], test: Split) -> list[Metric | Note]:
        """Return the AUC metrics of anomaly scores `(n,)`, over all test examples and for each group."""
        results: list[Metric | Note] = list(self._compute_aucs(errors, test.y, "test"))
        for group in np.unique(test.groups) if test.groups is not None else ():
            rows = test.groups == group
            if 0 < test.y[rows].sum() < rows.sum():
                results += self._compute_aucs(errors[rows], test.y[rows], f"group_test/{group}")
            else:
                results.append(Note(f"auc/group_test/{group}", "the group has no examples of one of both kinds"))
        return results

    def _compute_aucs(self, errors: NDArray[np.float64], labels: NDArray[np.int32], suffix: str) -> list[Metric]:
        from sklearn.metrics import roc_auc_score  # takes seconds to import

        values = {"auc": roc_auc_score(labels, errors)}
        values["partial_auc"] = roc_auc_score(labels, errors, max_fpr=self.max_fpr)
        return [Metric(f"{name}/{suffix}", value, "", "max", "test", self.version) for name, value in values.items()]

    def compare(self, outputs: NDArray[Any], control: NDArray[Any], data: Data) -> list[Metric]:
        """Measure the root mean squared difference to the control; see `Task.compare`."""
        difference = math.sqrt(_compute_errors(outputs, control).mean())
        return [Metric("fidelity/rmse", difference, "", "min", version=self.version)]


def _select_rows(split: Split, rows: NDArray[np.intp]) -> Split:
    return replace(split, x=read_rows(split.x, rows), y=split.y[rows])


def _compute_errors(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean squared error of each example, `(n,)`, in double precision."""
    return map_chunks(_average_squares, outputs, np.broadcast_to(targets, outputs.shape))


def _average_squares(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    errors: NDArray[np.float64] = np.square(outputs - targets).mean(axis=1, dtype=np.float64)
    return errors
