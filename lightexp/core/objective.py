"""Training objectives: the base class of the losses that training stages minimise.

`lightexp.core.protocols` exports the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightexp.core.task import Task

Teacher = str | list[str]
"""`control`, the path of a float `.tflite`, or the overrides that describe another run."""


class TrainingObjective:
    """The loss that a training stage minimises; a subclass defines `loss`, or `compute_loss` to serve any task.

    Attributes:
        follows_task: Whether `compute_loss` uses the task, so that the objective serves any; others serve
            classification alone.
        adapts: Whether `feature_loss` receives the model's features mapped to the teacher's number of channels by a
            linear layer that is trained with the model.
        version: To be raised when the same settings give another result.
    """

    follows_task: ClassVar[bool] = False
    adapts: ClassVar[bool] = False
    version: ClassVar[int] = 1

    @property
    def teachers(self) -> dict[str, Teacher]:
        """Teachers by role; the logits of each over the train split are passed to `loss`."""
        return {}

    @property
    def matched(self) -> Mapping[str, str] | None:
        """Layers of the model and the layers of the teacher they are compared with, by name; None compares no layers.

        An empty mapping means the convolutions of the same name, or the dense layers but the last if there are none.
        """
        return None

    def feature_loss(self, features: Any, teachers: Any) -> Any:
        """Return the loss `(batch,)` of one matched layer, which is added to `loss`.

        Args:
            features: Output of the model's layer, `(batch, ..., channels)`.
            teachers: Output of the teacher's layer, of the same shape; without `adapts`, channels may differ.
        """
        raise NotImplementedError

    def compute_loss(self, task: Task, outputs: Any, targets: Any, teachers: Mapping[str, Any]) -> Any:
        """Return the loss of each example under a task; traced like `loss`, which it calls unless overridden.

        Args:
            task: What is learnt.
            outputs: Tensor `(batch, outputs)` of the model in training.
            targets: Tensor `(batch, ...)`, as in `Split.y`.
            teachers: Tensor `(batch, outputs)` for each role in `teachers`.

        Returns:
            Tensor `(batch,)`.
        """
        return self.loss(outputs, targets, teachers)

    def loss(self, logits: Any, labels: Any, teachers: Mapping[str, Any]) -> Any:
        """Return the loss of each example. The code is traced: a condition on a tensor has to be a `tf.cond`.

        Args:
            logits: Tensor `(batch, classes)` of the model in training.
            labels: Tensor `(batch,)` int32.
            teachers: Tensor `(batch, classes)` of logits for each role in `teachers`.

        Returns:
            Tensor `(batch,)`.
        """
        raise NotImplementedError
