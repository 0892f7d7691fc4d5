"""Tasks: the abstract class that says what a model's outputs mean, how they are learnt and how they are measured.

`lightexp.core.protocols` exports the same names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from lightexp.core.class_counts import find_top
from lightexp.core.config import build
from lightexp.core.memmap import map_chunks
from lightexp.core.metrics import Metric, Note
from lightexp.core.primary_metric import PrimaryMetric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightexp.core.data import Data

Direction = Literal["max", "min"]
SplitName = Literal["val", "test"]
TargetKind = Literal["labels", "numbers", "indicators", "anomalies"]
"""What a data set reads as targets: a class for each example, numbers, a 0 or 1 for each of several labels, or classes
that may be missing, where all examples are normal."""
DEFAULT_TASK = "lightexp.tasks.classification.Classification"
"""The task of data that nobody has given another one."""


class Task(ABC):
    """What is learnt and how good it is. No code outside `lightexp.tasks` knows what a model's outputs mean.

    Outputs are the model's, `(n, outputs)` float32, before `activation`; targets are those of `Data.compute_targets`.

    Attributes:
        activation: The operator that may follow the outputs in a file made elsewhere, and that is removed or inverted
            to get them; None for no operator.
        epoch_metric: Name of a metric that is a mean over examples, summed in each batch of an epoch of training; see
            `score_examples`. The primary metric on validation is computed after each epoch, too.
        has_classes: Whether `compute_class_logits` gives logits.
        learns_inputs: Whether outputs are compared with the scaled inputs, flat, in place of `Split.y`.
        guess: What a model does that does not look at its inputs.
        comparisons: Names of the metrics of `compare`, each with the direction that is better.
        version: To be raised when the same settings give another result.
    """

    activation: ClassVar[Literal["softmax", "sigmoid"] | None] = None
    epoch_metric: ClassVar[str]
    has_classes: ClassVar[bool] = False
    learns_inputs: ClassVar[bool] = False
    guess: ClassVar[str] = "always answering with one class"
    comparisons: ClassVar[Mapping[str, Direction | None]]
    version: ClassVar[int] = 1

    @property
    @abstractmethod
    def primary(self) -> str:
        """Name of the metric that choices are based on, without the split, such as `accuracy`."""

    @property
    def is_primary_set(self) -> bool:
        """Whether a primary metric other than the default was asked for, which then also decides the best epoch."""
        defaults = [field.default for field in fields(cast("Any", self)) if field.name == "primary"]
        return bool(defaults) and self.primary != defaults[0]

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, Direction | None]:
        """Full names of all metrics that `measure` can give, each with the direction that is better."""

    @property
    def target_kind(self) -> TargetKind:
        """What a data set is to read as targets."""
        return "labels"

    @abstractmethod
    def prepare(self, data: Data) -> Data:
        """Check a data set's targets, and return it as the task learns it, with `Data.task` set.

        Raises:
            BadInput: If the targets are not this task's; the message says which task they would fit.
        """

    def use_own_unit(self, data: Data) -> Data:
        """Return prepared data as a model that was trained elsewhere sees it: targets in their own unit."""
        return data

    @abstractmethod
    def count_outputs(self, data: Data) -> int:
        """Return the number of the model's outputs."""

    @abstractmethod
    def describe_outputs(self, data: Data) -> str:
        """Return what the data need of a model's outputs, such as `4 classes`, for messages."""

    def name_outputs(self, data: Data) -> list[str]:
        """Return the names of the classes that the outputs stand for, in their order; empty where they are numbers."""
        return list(data.names) or [str(number) for number in range(data.classes)]

    @abstractmethod
    def compute_loss(self, outputs: Any, targets: Any) -> Any:
        """Return the loss of each example, a tensor `(batch,)`; traced into a graph."""

    @abstractmethod
    def compute_soft_loss(self, teachers: Sequence[Any], outputs: Any, temperature: float) -> Any:
        """Return the loss of each example against teachers' outputs, a tensor `(batch,)`; traced into a graph.

        Args:
            teachers: Outputs `(batch, outputs)` of one or more teachers, which are averaged.
            outputs: Outputs `(batch, outputs)` of the model in training.
            temperature: Softens probabilities; of no effect where there are none.
        """

    @abstractmethod
    def score_examples(self, outputs: Any, targets: Any, data: Data) -> Any:
        """Return the sum of `epoch_metric` over a batch, a scalar tensor; traced into a graph."""

    @abstractmethod
    def compute_primary(self, outputs: NDArray[Any], targets: NDArray[Any], data: Data) -> float:
        """Return the primary metric."""

    @abstractmethod
    def compute_chance(self, targets: NDArray[Any], data: Data) -> float:
        """Return the primary metric of the best model that does not look at its inputs."""

    @abstractmethod
    def describe_primary(self, data: Data) -> PrimaryMetric:
        """Return the primary metric with its direction, its unit and its value of guessing on these data."""

    @abstractmethod
    def measure(self, outputs: Mapping[SplitName, NDArray[Any]], data: Data) -> Sequence[Metric | Note]:
        """Return the metrics of a file on each visible split, and notes on those that are missing.

        Args:
            outputs: The file's outputs by split; `val` is among them.
            data: The data set.
        """

    @abstractmethod
    def compare(self, outputs: NDArray[Any], control: NDArray[Any], data: Data) -> list[Metric]:
        """Return how closely a file's outputs follow the control's, as metrics `fidelity/...` of one split."""

    def predict_classes(
        self, outputs: Mapping[SplitName, NDArray[Any]], data: Data
    ) -> Mapping[SplitName, NDArray[Any]]:
        """Return the predicted class of each example, `(n,)`, by split; empty where the task has no classes."""
        logits = {split: self.compute_class_logits(values) for split, values in outputs.items()}
        return {split: map_chunks(find_top, values) for split, values in logits.items() if values is not None}

    def compute_class_logits(self, outputs: NDArray[Any]) -> NDArray[Any] | None:
        """Return a logit for each class, `(n, classes)`; None where the task has no classes."""
        return None


def make_default_task() -> Task:
    """Return the task of data that nobody has given another one."""
    return build({"_target_": DEFAULT_TASK}, Task, "task")  # type: ignore[type-abstract]


def is_default_task(node: object) -> bool:
    """Return whether a config node is the default task, which configs are written without, as before tasks existed."""
    default = {"_target_": DEFAULT_TASK, **vars(make_default_task())}
    return isinstance(node, Mapping) and {**default, **node} == default
