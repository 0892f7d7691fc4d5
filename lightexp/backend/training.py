"""Train a Keras model on a data set: the optimiser step, validation, early stopping and saved state."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lightexp.backend.augmentation import augment_batch, draw_mixup_partners
from lightexp.backend.divergence import require_finite_loss, require_finite_weights, require_learnt
from lightexp.backend.epoch_loops import EpochLoop, EpochWork, FitLoop, GraphLoop
from lightexp.backend.features import FeatureMatcher
from lightexp.backend.losses import select_targets
from lightexp.backend.optimizers import Optimizer
from lightexp.backend.randomness import seed_by_step
from lightexp.backend.session import import_tensorflow
from lightexp.core import interrupt
from lightexp.core.data import Data, Split
from lightexp.core.memmap import read_chunk
from lightexp.core.protocols import Progress
from lightexp.core.training import Training, count_steps_per_epoch

tf = import_tensorflow()

_EVALUATION_BATCH = 500
_CURVE_PREFIX = "history/"  # of arrays in a saved state that are not variables


class WeightConstraint(Protocol):
    """Keeps weights in a pattern while they are trained: pruned at zero, or equal to each other."""

    def on_step_begin(self, step: Any) -> None:
        """Apply the constraint in the graph, before the forward pass of `step` (int64, counted from 1)."""

    def on_epoch_end(self) -> None:
        """Apply the constraint after the last step of an epoch."""

    def compute_sparsity(self) -> float:
        """Return the present share of zeros among the constrained weights."""

    @property
    def last_step(self) -> int:
        """The step after which the pattern no longer changes."""

    @property
    def variables(self) -> list[Any]:
        """The constraint's state that changes from step to step."""


@runtime_checkable
class Reparameterization(WeightConstraint, Protocol):
    """Computes weights of the model from other variables, which are trained instead of them."""

    def replace(self, variables: Sequence[Any]) -> list[Any]:
        """Return the variables that the optimiser updates instead of `variables`."""

    def pull_back(self, variables: Sequence[Any], gradients: Sequence[Any], step: Any) -> list[Any]:
        """Return the gradient of each variable that `replace` returns, in the graph of `step`.

        Args:
            variables: The model's variables.
            gradients: Their gradients; None for a variable that does not matter.
            step: The step, int64, counted from 1.
        """


@dataclass(frozen=True)
class TeacherSignals:
    """What an objective compares the model in training with.

    Attributes:
        logits: Outputs `(n, outputs)` over the train split of each of the objective's teachers.
        features: The hidden layers that the objective compares, or None.
    """

    logits: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    features: FeatureMatcher | None = None


class Trainer:
    """Trains one model on one data set for one objective."""

    def __init__(
        self,
        model: Any,
        settings: Training,
        data: Data,
        seed: int,
        teachers: TeacherSignals | None = None,
        constraint: WeightConstraint | None = None,
    ) -> None:
        """Create the optimiser's state.

        Args:
            model: A built tf_keras model without a final activation; it is trained in place.
            settings: The training's settings.
            data: The data set.
            seed: Seed of shuffling, augmentation and dropout.
            teachers: What the objective compares the model with. Defaults to None: no teachers.
            constraint: Pruning masks, tied weights or weights on a grid. Defaults to None.
        """
        self._model, self._settings, self._data, self._seed = model, settings, data, seed
        self._teachers = teachers or TeacherSignals()
        self._constraint = constraint
        features = self._teachers.features
        self._variables = [*model.trainable_variables, *(features.variables if features else [])]
        self._reparameterization = constraint if isinstance(constraint, Reparameterization) else None
        trained = self._variables
        if self._reparameterization:
            trained = self._reparameterization.replace(self._variables)
        self._optimizer = Optimizer(settings, trained)
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._rates = tf.constant(settings.learning_rates(count_steps_per_epoch(len(data.train), settings.batch_size)))
        self._validate = tf.function(self._validate_batch, reduce_retracing=True, autograph=False)
        self._history: dict[str, list[float]] = {}
        self._primary = data.task.describe_primary(data)

    def run(self, progress: Progress, stop: int | None = None) -> dict[str, list[float]]:
        """Train to the end, or until early stopping, which restores the weights of the best epoch.

        Args:
            progress: Receives a report after every epoch, and within it.
            stop: The epoch after which to stop, so that the training can be continued from `save_state`. Defaults to
                None: the last.

        Returns:
            Curves with one value per epoch: loss, the task's `epoch_metric`, both with `val_`, the primary metric with
            `val_`, seconds and, with a constraint, sparsity.

        Raises:
            RunFailed: If the loss or a weight is not finite, or the training has diverged.
        """
        loop = self._create_loop()
        stopping = _EarlyStopping(self._settings.early_stopping)
        for epoch in range(len(self._history.get("loss", [])), stop or self._settings.epochs):
            interrupt.raise_if_requested()
            metrics = self._train_epoch(loop, epoch, progress)
            for name, value in metrics.items():
                self._history.setdefault(name, []).append(value)
            reported = {name: value for name, value in metrics.items() if name != "seconds"}
            progress.step(epoch + 1, self._settings.epochs, **reported)
            # An epoch before the end of a pruning schedule is less sparse than requested, whatever its loss.
            is_settled = self._constraint is None or self._step >= self._constraint.last_step
            if is_settled and stopping.is_over(self._select_stopping_value(metrics), self._model):
                break
        stopping.restore_best(self._model)
        if stop is None:
            require_learnt(self._history["val_loss"], self._settings)
        return self._history

    def _select_stopping_value(self, metrics: Mapping[str, float]) -> float:
        """Return the value that early stopping minimises: the validation loss, or a primary metric that was set."""
        if not self._data.task.is_primary_set:
            return metrics["val_loss"]
        value = metrics[f"val_{self._primary.name}"]
        return -value if self._primary.direction == "max" else value

    def _create_loop(self) -> EpochLoop:
        metric = self._data.task.epoch_metric
        work = EpochWork(self._data.train, self._teachers.logits, self._settings, self._seed, self.train_step, metric)
        if self._settings.loop == "fit" or self._data.train.on_disk:
            return FitLoop(work)
        return GraphLoop(work)

    def _train_epoch(self, loop: EpochLoop, epoch: int, progress: Progress) -> dict[str, float]:
        """Train and validate for one epoch; return its metrics."""
        start = time.perf_counter()
        latest = {name: values[-1] for name, values in self._history.items() if name != "seconds"}
        metrics = loop.run_epoch(epoch, progress, latest)
        if self._constraint:
            self._constraint.on_epoch_end()
            metrics["sparsity"] = self._constraint.compute_sparsity()
        metrics |= self._evaluate(self._data.val)
        require_finite_loss(metrics["val_loss"], epoch, self._settings)
        require_finite_weights(self._model.weights, epoch, self._settings)  # the last step may have broken them
        metrics["seconds"] = time.perf_counter() - start
        return metrics

    def save_state(self, path: Path) -> None:
        """Write all that `load_state` needs to continue as if the training had not stopped."""
        curves = {f"{_CURVE_PREFIX}{name}": np.array(values) for name, values in self._history.items()}
        variables = {f"v{n:05d}": variable.numpy() for n, variable in enumerate(self._state)}
        arrays: dict[str, Any] = {**curves, **variables}
        np.savez(path, **arrays)

    def load_state(self, path: Path) -> None:
        """Continue from what `save_state` wrote for the same settings, data, model and seed."""
        with np.load(path, allow_pickle=False) as arrays:
            curves = [name for name in arrays.files if name.startswith(_CURVE_PREFIX)]
            self._history = {name.removeprefix(_CURVE_PREFIX): arrays[name].tolist() for name in curves}
            for variable, name in zip(self._state, sorted(set(arrays.files) - set(curves)), strict=True):
                variable.assign(arrays[name])

    @property
    def _state(self) -> list[Any]:
        """All variables that a step changes."""
        slots = [slot for slots in self._optimizer.slots for slot in slots]
        parts = [part for part in (self._teachers.features, self._constraint) if part]
        extra = [variable for part in parts for variable in part.variables]
        return [self._step, *self._model.weights, *extra, *slots]

    def train_step(self, raw: Any, targets: Any, teachers: Mapping[str, Any]) -> tuple[Any, Any]:
        """Take one optimiser step, inside a graph.

        Args:
            raw: Raw examples `(batch, *shape)`.
            targets: The task's targets `(batch, ...)`.
            teachers: Outputs `(batch, outputs)` of each of the objective's teachers.

        Returns:
            Sums of the loss and of the task's `epoch_metric`.
        """
        task, objective = self._data.task, self._settings.objective
        rate = self._rates[self._step]
        step = self._step.assign_add(1)
        if self._constraint:
            self._constraint.on_step_begin(step)
        inputs, weight = self._scale(raw), None
        if self._data.augment.active:
            inputs, weight = augment_batch(inputs, self._data.augment, self._seed, step)
        targets = select_targets(task, inputs, targets)
        with tf.GradientTape() as tape:
            with seed_by_step(self._model, self._seed, step):
                outputs, feature_losses = self._forward(inputs)
            losses = objective.compute_loss(task, outputs, targets, teachers)
            if weight is not None:
                partner_teachers = {role: draw_mixup_partners(soft) for role, soft in teachers.items()}
                partners = draw_mixup_partners(targets)
                partner_losses = objective.compute_loss(task, outputs, partners, partner_teachers)
                losses = weight * losses + (1 - weight) * partner_losses
            if feature_losses is not None:
                losses += feature_losses
            loss = tf.reduce_mean(losses)
            if self._model.losses:
                loss += tf.add_n(self._model.losses)
        gradients = tape.gradient(loss, self._variables)
        if self._reparameterization:
            gradients = self._reparameterization.pull_back(self._variables, gradients, step)
        self._optimizer.apply(gradients, step, rate)
        return tf.reduce_sum(losses), task.score_examples(outputs, targets, self._data)

    def _forward(self, inputs: Any) -> tuple[Any, Any]:
        """Return outputs `(batch, outputs)` and the losses of matched layers `(batch,)`, or None without any."""
        if self._teachers.features:
            return self._teachers.features(inputs)
        return self._model(inputs, training=True), None

    def _scale(self, raw: Any) -> Any:
        return tf.cast(raw, tf.float32) * self._data.scale + self._data.offset

    def _validate_batch(self, raw: Any, targets: Any) -> tuple[Any, Any, Any]:
        task, inputs = self._data.task, self._scale(raw)
        outputs, targets = self._model(inputs, training=False), select_targets(task, inputs, targets)
        losses, score = task.compute_loss(outputs, targets), task.score_examples(outputs, targets, self._data)
        return tf.reduce_sum(losses), score, outputs

    def _evaluate(self, split: Split) -> dict[str, float]:
        """Return the loss, the metric of epochs and the primary metric of a split."""
        task, needs_outputs = self._data.task, self._primary.name != self._data.task.epoch_metric
        loss, score, outputs = 0.0, 0.0, []
        for first in range(0, len(split), _EVALUATION_BATCH):
            rows = slice(first, first + _EVALUATION_BATCH)
            batch_loss, batch_score, batch = self._validate(
                tf.constant(read_chunk(split.x, rows)), tf.constant(split.y[rows])
            )
            loss, score = loss + float(batch_loss), score + float(batch_score)
            if needs_outputs:
                outputs.append(batch.numpy())
        metrics = {"val_loss": loss / len(split), f"val_{task.epoch_metric}": score / len(split)}
        if outputs and np.isfinite(loss):
            metrics[f"val_{self._primary.name}"] = task.compute_primary(
                np.concatenate(outputs), self._data.compute_targets(split), self._data
            )
        return metrics


class _EarlyStopping:
    """Stops after `patience` epochs without a lower value, usually of the validation loss; 0 never stops."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best_value = math.inf
        self._best_weights: list[NDArray[Any]] | None = None
        self._epochs_since = 0

    def is_over(self, value: float, model: Any) -> bool:
        """Take note of an epoch and return whether training should stop."""
        if not self._patience:
            return False
        self._epochs_since += 1
        if value < self._best_value:
            self._best_value, self._best_weights, self._epochs_since = value, model.get_weights(), 0
        return self._epochs_since >= self._patience

    def restore_best(self, model: Any) -> None:
        """Set the weights of the best epoch, if any epoch was noted."""
        if self._best_weights is not None:
            model.set_weights(self._best_weights)
