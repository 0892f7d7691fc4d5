"""Training a Keras model: the epochs of an in-memory data set run inside one TensorFlow graph.

Keras' `fit` goes back to Python at every step, which costs a small model half of its time or more. Here shuffling,
batching, the step, its metrics and the pruning masks are one graph, called for as many steps as take about half a
second, so that progress can be shown; where the calls are cut changes nothing in the result. A train split that
is kept on disk streams through `fit` instead, to the same bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from lightexp.backend.augmentation import augment_batch, draw_mixup_partners
from lightexp.backend.features import FeatureMatcher
from lightexp.backend.losses import compute_cross_entropy
from lightexp.backend.optimizers import Optimizer
from lightexp.backend.randomness import seed_by_step
from lightexp.backend.session import import_keras
from lightexp.core import interrupt
from lightexp.core.data import Data, Split
from lightexp.core.errors import RunFailed
from lightexp.core.protocols import Progress
from lightexp.core.training import Training, count_steps_per_epoch

_SECONDS_A_CALL = 0.5
_FIRST_CALL = 8  # steps: enough to trace and to time
_EVALUATED_AT_ONCE = 500
_PREFETCHED = 2  # batches that are read while one is trained on
_CURVE = "history/"


class WeightConstraint(Protocol):
    """What keeps weights in a pattern while they are trained: at zero, or equal."""

    def on_step_begin(self, step: Any) -> None:
        """In the graph, before the forward pass of step `step` (int64, from 1)."""

    def on_epoch_end(self) -> None:
        """After an epoch's last step."""

    def sparsity(self) -> float:
        """Share of the masked weights that are zero now."""

    @property
    def last_step(self) -> int:
        """The step after which the masks no longer change."""

    @property
    def variables(self) -> list[Any]:
        """All that is remembered from step to step."""


class Trainer:
    """One model, one data set, one objective."""

    def __init__(
        self,
        model: Any,
        settings: Training,
        data: Data,
        seed: int,
        teachers: Mapping[str, NDArray[np.float32]],
        masks: WeightConstraint | None = None,
        features: FeatureMatcher | None = None,
    ) -> None:
        """Puts the data and the optimiser's state in place.

        Args:
            model: A built tf_keras model that gives logits; it is trained in place.
            settings: How to train.
            data: The data set.
            seed: Of the shuffling.
            teachers: Logits `(n, classes)` over the train split for each of the objective's teachers.
            masks: Pruning masks or ties, if weights are to be pruned, or kept as they are, on the way.
            features: The hidden layers that the objective compares, if it does.
        """
        self._model, self._settings, self._data, self._seed, self._masks = model, settings, data, seed, masks
        self._teachers, self._features = dict(teachers), features
        self._variables = [*model.trainable_variables, *(features.variables if features else [])]
        self._optimizer = Optimizer(settings, self._variables)
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._per_epoch = count_steps_per_epoch(len(data.train), settings.batch_size)
        self._rates = tf.constant(settings.learning_rates(self._per_epoch))
        self._validate = tf.function(self._validation, reduce_retracing=True, autograph=False)
        self._history: dict[str, list[float]] = {}

    def run(self, progress: Progress, stop: int | None = None) -> dict[str, list[float]]:
        """Trains to the end, or until early stopping, which goes back to the best epoch.

        Args:
            progress: Shows how far it is.
            stop: The epoch after which it stops, to be gone on with from `save`. Defaults to None: the last.

        Returns:
            Curves, a value an epoch: loss, accuracy, val_loss, val_accuracy, seconds and, with masks, sparsity.

        Raises:
            RunFailed: If the loss is no longer finite.
        """
        streams = self._settings.loop == "fit" or self._data.train.on_disk
        run_epoch = self._fit_epochs() if streams else self._graph_epochs()
        history = self._history
        best, best_weights, since = math.inf, None, 0
        for epoch in range(len(history.get("loss", [])), stop or self._settings.epochs):
            interrupt.raise_if_requested()
            start = time.perf_counter()
            shown = {name: values[-1] for name, values in history.items() if name != "seconds"}
            figures = run_epoch(epoch, progress, shown)
            if self._masks:
                self._masks.on_epoch_end()
                figures["sparsity"] = self._masks.sparsity()
            figures |= self._evaluate(self._data.val)
            self._checked(figures["val_loss"], 0, 1, epoch)  # the last step may have broken the weights
            figures["seconds"] = time.perf_counter() - start
            for name, value in figures.items():
                history.setdefault(name, []).append(value)
            progress.step(epoch + 1, self._settings.epochs, **{k: v for k, v in figures.items() if k != "seconds"})
            # An epoch before the schedule's end is less sparse than what was asked for, whatever its loss.
            if self._settings.early_stopping and (not self._masks or self._step >= self._masks.last_step):
                since += 1
                if figures["val_loss"] < best:
                    best, best_weights, since = figures["val_loss"], self._model.get_weights(), 0
                if since >= self._settings.early_stopping:
                    break
        if best_weights is not None:
            self._model.set_weights(best_weights)
        return history

    def save(self, path: Path) -> None:
        """Writes all that `load` needs to go on as if nothing had stopped it."""
        curves = {f"{_CURVE}{name}": np.array(values) for name, values in self._history.items()}
        np.savez(path, **curves, **{f"v{n:05d}": variable.numpy() for n, variable in enumerate(self._state)})

    def load(self, path: Path) -> None:
        """Takes up the training that `save` wrote, which had the same settings, data, model and seed."""
        with np.load(path, allow_pickle=False) as arrays:
            curves = [name for name in arrays.files if name.startswith(_CURVE)]
            self._history = {name.removeprefix(_CURVE): arrays[name].tolist() for name in curves}
            for variable, name in zip(self._state, sorted(set(arrays.files) - set(curves)), strict=True):
                variable.assign(arrays[name])

    @property
    def _state(self) -> list[Any]:
        slots = [slot for slots in self._optimizer.slots for slot in slots]
        beside = [variable for part in (self._features, self._masks) if part for variable in part.variables]
        return [self._step, *self._model.weights, *beside, *slots]

    def train_step(self, raw: Any, labels: Any, teachers: Mapping[str, Any]) -> tuple[Any, Any]:
        """One optimiser step on a batch of raw examples, in the graph; returns summed loss and correct answers."""
        rate = self._rates[self._step]
        step = self._step.assign_add(1)
        if self._masks:
            self._masks.on_step_begin(step)
        inputs, share = self._inputs(raw), None
        if self._data.augment.active:
            inputs, share = augment_batch(inputs, self._data.augment, self._seed, step)
        with tf.GradientTape() as tape:
            with seed_by_step(self._model, self._seed, step):
                logits, beside = (self._features or self._alone)(inputs)
            losses = self._settings.objective.loss(logits, labels, teachers)
            if share is not None:
                others = {role: draw_mixup_partners(soft) for role, soft in teachers.items()}
                mixed = self._settings.objective.loss(logits, draw_mixup_partners(labels), others)
                losses = share * losses + (1 - share) * mixed
            if beside is not None:
                losses += beside
            loss = tf.reduce_mean(losses)
            if self._model.losses:
                loss += tf.add_n(self._model.losses)
        self._optimizer.apply(tape.gradient(loss, self._variables), step, rate)
        return tf.reduce_sum(losses), _correct(logits, labels)

    def _alone(self, inputs: Any) -> tuple[Any, None]:
        return self._model(inputs, training=True), None

    def _inputs(self, raw: Any) -> Any:
        return tf.cast(raw, tf.float32) * self._data.scale + self._data.offset

    def _order(self, epoch: int) -> Any:
        return tf.random.experimental.stateless_shuffle(tf.range(len(self._data.train)), seed=[self._seed, epoch])

    def _graph_epochs(self) -> Any:
        train = self._data.train
        x, y = tf.constant(train.x), tf.constant(train.y)
        soft = {role: tf.constant(logits) for role, logits in self._teachers.items()}
        size = self._settings.batch_size

        @tf.function(autograph=False)  # nothing to convert here, which would take it a second
        def steps(order: Any, first: Any, last: Any, loss: Any, correct: Any) -> Any:
            def step(index: Any, loss: Any, correct: Any) -> Any:
                rows = order[index * size : (index + 1) * size]
                picked = {role: tf.gather(logits, rows) for role, logits in soft.items()}
                batch_loss, batch_correct = self.train_step(tf.gather(x, rows), tf.gather(y, rows), picked)
                return index + 1, loss + tf.cast(batch_loss, tf.float64), correct + batch_correct

            return tf.while_loop(lambda index, *_: index < last, step, (first, loss, correct))[1:]

        chunk = min(_FIRST_CALL, self._per_epoch)

        def run(epoch: int, progress: Progress, shown: dict[str, float]) -> dict[str, float]:
            nonlocal chunk
            order, done = self._order(epoch), 0
            loss, correct = tf.zeros((), tf.float64), tf.zeros((), tf.int64)
            while done < self._per_epoch:
                start, last = time.perf_counter(), min(done + chunk, self._per_epoch)
                loss, correct = steps(order, tf.constant(done), tf.constant(last), loss, correct)
                seen = min(last * size, len(train))
                shown |= self._checked(float(loss), int(correct), seen, epoch)
                pace = (time.perf_counter() - start) / (last - done)
                chunk, done = max(1, int(_SECONDS_A_CALL / pace)), last
                if done < self._per_epoch:
                    progress.step(epoch + done / self._per_epoch, self._settings.epochs, **shown)
            return self._checked(float(loss), int(correct), len(train), epoch)

        return run

    def _fit_epochs(self) -> Any:
        trainer, train, size = self, self._data.train, self._settings.batch_size
        roles = sorted(self._teachers)

        class Fit(import_keras().Model):  # type: ignore[misc]
            def train_step(self, batch: Any) -> dict[str, Any]:
                loss, correct = trainer.train_step(batch[0], batch[1], dict(zip(roles, batch[2:], strict=True)))
                totals.assign_add(tf.stack([tf.cast(loss, tf.float64), tf.cast(correct, tf.float64)]))
                return {"loss": loss}

        totals = tf.Variable([0.0, 0.0], dtype=tf.float64)
        fitted = Fit()
        fitted.compile()
        arrays = [train.x, train.y, *(self._teachers[role] for role in roles)]
        signature = tuple(tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in arrays)

        def run(epoch: int, progress: Progress, shown: dict[str, float]) -> dict[str, float]:
            order = self._order(epoch).numpy()

            def batches() -> Any:
                for first in range(0, len(train), size):
                    yield tuple(a[order[first : first + size]] for a in arrays)

            def after(batch: int, logs: Any) -> None:
                if batch % 100 == 99:
                    progress.step(epoch + (batch + 1) / self._per_epoch, self._settings.epochs, **shown)

            totals.assign([0.0, 0.0])
            stream = tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(_PREFETCHED)
            shows = import_keras().callbacks.LambdaCallback(on_batch_end=after)
            # Counted steps: to find the stream's end, `fit` would start one more, whose counter runs ahead of its data.
            fitted.fit(stream, epochs=1, steps_per_epoch=self._per_epoch, verbose=0, callbacks=[shows])
            loss, correct = totals.numpy()
            return self._checked(float(loss), int(correct), len(train), epoch)

        return run

    def _checked(self, loss: float, correct: int, seen: int, epoch: int) -> dict[str, float]:
        if not math.isfinite(loss):
            raise RunFailed(
                f"The loss is {loss} in epoch {epoch + 1}. Received learning_rate={self._settings.learning_rate:g}; "
                "try a tenth of it, and look for extreme values in the data."
            )
        return {"loss": loss / seen, "accuracy": correct / seen}

    def _validation(self, raw: Any, labels: Any) -> tuple[Any, Any]:
        logits = self._model(self._inputs(raw), training=False)
        return tf.reduce_sum(compute_cross_entropy(logits, labels)), _correct(logits, labels)

    def _evaluate(self, split: Split) -> dict[str, float]:
        loss, correct = 0.0, 0
        for first in range(0, len(split), _EVALUATED_AT_ONCE):
            rows = slice(first, first + _EVALUATED_AT_ONCE)
            got = self._validate(tf.constant(split.x[rows]), tf.constant(split.y[rows]))
            loss, correct = loss + float(got[0]), correct + int(got[1])
        return {"val_loss": loss / len(split), "val_accuracy": correct / len(split)}


def _correct(logits: Any, labels: Any) -> Any:
    return tf.math.count_nonzero(tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels))
