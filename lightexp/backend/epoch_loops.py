"""Run the steps of a training epoch: inside one TensorFlow graph, or streamed through Keras' `fit`.

`fit` returns to Python at every step, which costs a small model half of its time or more. `GraphLoop` makes shuffling,
batching, steps and metrics one graph, called for as many steps as take about half a second, so that progress can be
shown; how the calls are cut does not change the result. `FitLoop` streams a train split that is kept on disk, to the
same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lightexp.backend.divergence import require_finite_loss
from lightexp.backend.session import import_keras, import_tensorflow
from lightexp.core import memmap
from lightexp.core.data import Split
from lightexp.core.protocols import Progress
from lightexp.core.training import Training, count_steps_per_epoch

tf = import_tensorflow()

SECONDS_PER_CALL = 0.5
"""Time that one call of `GraphLoop`'s graph should take."""
FIRST_CALL_STEPS = 8
"""Steps of the first call: enough to trace and to time."""
_PREFETCHED_BATCHES = 2  # read while another is trained on
_PROGRESS_STEPS = 100  # of `fit`, between two reports

TrainStep = Callable[[Any, Any, Mapping[str, Any]], tuple[Any, Any]]
"""Takes a batch of raw examples, targets and teachers' outputs; returns the sums of loss and metric."""


@dataclass(frozen=True)
class EpochWork:
    """What a training does in each epoch.

    Attributes:
        train: The train split.
        teacher_logits: Logits `(n, classes)` over the train split for each of the objective's teachers.
        settings: The training's settings.
        seed: Seed of the shuffling.
        train_step: One optimiser step, traced into a graph.
        metric: Name of the metric that the step returns with the loss.
    """

    train: Split
    teacher_logits: Mapping[str, NDArray[np.float32]]
    settings: Training
    seed: int
    train_step: TrainStep
    metric: str

    @property
    def steps(self) -> int:
        """Steps of an epoch, the last, smaller batch included."""
        return count_steps_per_epoch(len(self.train), self.settings.batch_size)

    def shuffle(self, epoch: int) -> Any:
        """Return the order of the examples in an epoch, an int32 tensor `(n,)`."""
        return tf.random.experimental.stateless_shuffle(tf.range(len(self.train)), seed=[self.seed, epoch])

    def average(self, loss: float, score: float, examples: int, epoch: int) -> dict[str, float]:
        """Return loss and metric over the examples seen in an epoch.

        Args:
            loss: Summed loss.
            score: Summed metric.
            examples: Number of examples seen.
            epoch: The epoch, counted from 0.

        Raises:
            RunFailed: If the loss is not finite.
        """
        require_finite_loss(loss, epoch, self.settings)
        return {"loss": loss / examples, self.metric: score / examples}


class EpochLoop(Protocol):
    """A way of running the steps of an epoch."""

    def run_epoch(self, epoch: int, progress: Progress, metrics: dict[str, float]) -> dict[str, float]:
        """Train for one epoch.

        Args:
            epoch: The epoch, counted from 0.
            progress: Receives reports of the epoch's parts.
            metrics: The metrics to show with the progress, until there are newer ones.

        Returns:
            The epoch's mean `loss` and metric.

        Raises:
            RunFailed: If the loss is not finite.
        """


class GraphLoop:
    """Runs many steps in one call of a graph; the train split is a constant of the graph."""

    def __init__(self, work: EpochWork) -> None:
        """Copy the train split and the teachers' logits into TensorFlow."""
        self._work = work
        self._x, self._y = tf.constant(work.train.x), tf.constant(work.train.y)
        self._teacher_logits = {role: tf.constant(logits) for role, logits in work.teacher_logits.items()}
        self._call_steps = min(FIRST_CALL_STEPS, work.steps)
        # There is nothing for autograph to convert, which would take it a second.
        self._run_steps = tf.function(self._trace_steps, autograph=False)

    def run_epoch(self, epoch: int, progress: Progress, metrics: dict[str, float]) -> dict[str, float]:
        """Train for one epoch; see `EpochLoop`."""
        work, done = self._work, 0
        order = work.shuffle(epoch)
        loss = score = tf.zeros((), tf.float64)
        while done < work.steps:
            start, last = time.perf_counter(), min(done + self._call_steps, work.steps)
            loss, score = self._run_steps(order, tf.constant(done), tf.constant(last), loss, score)
            examples = min(last * work.settings.batch_size, len(work.train))
            metrics |= work.average(float(loss), float(score), examples, epoch)
            seconds_per_step = (time.perf_counter() - start) / (last - done)
            self._call_steps, done = max(1, int(SECONDS_PER_CALL / seconds_per_step)), last
            if done < work.steps:
                progress.step(epoch + done / work.steps, work.settings.epochs, **metrics)
        return work.average(float(loss), float(score), len(work.train), epoch)

    def _trace_steps(self, order: Any, first: Any, last: Any, loss: Any, score: Any) -> Any:
        """Run the steps from `first` to before `last`; return the sums of loss and metric with theirs."""
        size = self._work.settings.batch_size

        def run_step(index: Any, loss: Any, score: Any) -> Any:
            rows = order[index * size : (index + 1) * size]
            teacher_logits = {role: tf.gather(logits, rows) for role, logits in self._teacher_logits.items()}
            step_loss, step_score = self._work.train_step(
                tf.gather(self._x, rows), tf.gather(self._y, rows), teacher_logits
            )
            return index + 1, loss + tf.cast(step_loss, tf.float64), score + tf.cast(step_score, tf.float64)

        return tf.while_loop(lambda index, *_: index < last, run_step, (first, loss, score))[1:]


class FitLoop:
    """Streams batches through Keras' `fit`, for a train split that should not be copied into TensorFlow."""

    def __init__(self, work: EpochWork) -> None:
        """Compile the step for `fit`."""
        self._work = work
        roles = sorted(work.teacher_logits)
        self._arrays = [work.train.x, work.train.y, *(work.teacher_logits[role] for role in roles)]
        self._signature = tuple(tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in self._arrays)
        self._totals = totals = tf.Variable([0.0, 0.0], dtype=tf.float64)

        class StepModel(import_keras().Model):  # type: ignore[misc]
            def train_step(self, batch: Any) -> dict[str, Any]:
                loss, score = work.train_step(batch[0], batch[1], dict(zip(roles, batch[2:], strict=True)))
                totals.assign_add(tf.stack([tf.cast(loss, tf.float64), tf.cast(score, tf.float64)]))
                return {"loss": loss}

        self._model = StepModel()
        self._model.compile()

    def run_epoch(self, epoch: int, progress: Progress, metrics: dict[str, float]) -> dict[str, float]:
        """Train for one epoch; see `EpochLoop`."""
        work = self._work
        order = work.shuffle(epoch).numpy()

        def report(batch: int, logs: Any) -> None:
            if (batch + 1) % _PROGRESS_STEPS == 0:
                progress.step(epoch + (batch + 1) / work.steps, work.settings.epochs, **metrics)

        self._totals.assign([0.0, 0.0])
        stream = tf.data.Dataset.from_generator(lambda: self._read_batches(order), output_signature=self._signature)
        # Without a number of steps `fit` looks for the stream's end by starting one more step, which would advance the
        # step counter without data.
        self._model.fit(
            stream.prefetch(_PREFETCHED_BATCHES),
            epochs=1,
            steps_per_epoch=work.steps,
            verbose=0,
            callbacks=[import_keras().callbacks.LambdaCallback(on_batch_end=report)],
        )
        loss, score = self._totals.numpy()
        return work.average(float(loss), float(score), len(work.train), epoch)

    def _read_batches(self, order: NDArray[np.int32]) -> Iterator[tuple[NDArray[Any], ...]]:
        size = self._work.settings.batch_size
        for first in range(0, len(order), size):
            yield tuple(memmap.read_chunk(array, order[first : first + size]) for array in self._arrays)
