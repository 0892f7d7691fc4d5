"""Adjust the price of a bit while a model trains, so that its file gets a size, or the model keeps a quality."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lightexp.backend.session import import_tensorflow
from lightexp.core.data import Data
from lightexp.core.memmap import read_chunk
from lightexp.core.primary_metric import PrimaryMetric

if TYPE_CHECKING:
    from lightexp.backend.grid_weights import GridWeights

tf = import_tensorflow()

_MEASURED_EPOCHS = 8  # in how many epochs the file is encoded; the others extrapolate by the entropy of the levels
_GAIN = 10.0  # divided by the number of epochs: share of the error by which the price changes in an epoch
_LOOKAHEAD = 4.0  # epochs over which the size is expected to go on changing as in the last one
_MAX_CHANGE = 0.7  # of the logarithm of the price, in an epoch
_TOLERANCE = 0.01  # of a size
_QUALITY_UNIT = 0.005  # an accuracy so much too high or too low changes the price as a size that is e times too large
_LATE_GAIN = 0.1  # share of the wrong answers that the training after the ramp is expected to correct
_BISECTIONS = 8
_THRESHOLDS = (0.1, 0.95)  # multiples of a step below which a weight may become zero at the end; 0.5 rounds
_EVALUATION_BATCH = 500


class RateControl(Protocol):
    """Changes the price of a bit in the course of a training."""

    @property
    def variables(self) -> list[Any]:
        """The state that changes from epoch to epoch."""

    def adjust(self, weights: GridWeights) -> None:
        """Change the price after an epoch.

        Args:
            weights: The weights; their `rate` is changed.
        """

    def finish(self, weights: GridWeights) -> float:
        """Come as close to the target as possible after the last epoch, by moving the limit between zero and one step.

        Args:
            weights: The weights, rounded with the new limit.

        Returns:
            What has been reached.
        """


class _Price:
    """Changes a price in every epoch of the second part of a training.

    Attributes:
        epoch: Number of epochs that have ended, a variable.
    """

    def __init__(self, begin: int, epochs: int) -> None:
        self._begin, self._controlled = begin, max(epochs - begin, 1)
        self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False)

    def count_epoch(self) -> int:
        """Count an epoch; return how many have ended since the price is controlled, negative before."""
        return int(self.epoch.assign_add(1)) - self._begin

    def compute_rest(self, count: int) -> float:
        """Return the share of the second part of the training that is left."""
        return 1 - count / self._controlled

    def is_measured(self, count: int) -> bool:
        """Return whether a size is measured in this epoch."""
        return count % max(self._controlled // _MEASURED_EPOCHS, 1) == 0

    def change(self, weights: GridWeights, error: float) -> None:
        """Raise the price for a positive error, lower it for a negative one."""
        change = min(max(_GAIN / self._controlled * error, -_MAX_CHANGE), _MAX_CHANGE)
        weights.rate.assign(weights.rate * math.exp(change))


class SizeControl:
    """Controls the price of a bit by the size of the encoded file.

    Attributes:
        target: Bytes that the encoded file is to have.
    """

    def __init__(self, target: float, measure: Callable[[], int], begin: int, epochs: int) -> None:
        """Start before the first epoch.

        Args:
            target: See `SizeControl`.
            measure: Encodes the model as it is, and returns the size in bytes.
            begin: Epochs after which the price no longer rises by itself, and is controlled.
            epochs: Epochs of the training.
        """
        self.target, self._measure, self._price = target, measure, _Price(begin, epochs)
        self._calibration = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self._last_error = tf.Variable(math.nan, dtype=tf.float64, trainable=False)

    @property
    def variables(self) -> list[Any]:
        """The state that changes from epoch to epoch."""
        return [self._price.epoch, self._calibration, self._last_error]

    def adjust(self, weights: GridWeights) -> None:
        """Change the price after an epoch; see `RateControl`."""
        count = self._price.count_epoch()
        if count < 0:
            return
        entropy = weights.estimate_bytes()
        if self._price.is_measured(count):
            self._calibration.assign(self._measure() - entropy)
        error = math.log(max(entropy + float(self._calibration), 1.0) / self.target)
        trend = 0.0 if math.isnan(last := float(self._last_error)) else error - last
        self._last_error.assign(error)
        self._price.change(weights, error + _LOOKAHEAD * trend)

    def finish(self, weights: GridWeights) -> float:
        """Reach the size in bytes; see `RateControl`."""
        low, high = _THRESHOLDS
        threshold, size = 0.5, math.nan
        for _ in range(_BISECTIONS):
            weights.round_with_threshold(threshold)
            size = self._measure()
            if abs(size / self.target - 1) <= _TOLERANCE:
                break
            if size > self.target:
                low = threshold
            else:
                high = threshold
            threshold = (low + high) / 2
        return size


class QualityControl:
    """Controls the price of a bit by the primary metric on validation, so that the file gets as small as it allows.

    Attributes:
        primary: The primary metric.
        limit: Its worst value.
    """

    def __init__(
        self, primary: PrimaryMetric, limit: float, evaluate: Callable[[], float], begin: int, epochs: int
    ) -> None:
        """Start before the first epoch.

        Args:
            primary: See `QualityControl`.
            limit: See `QualityControl`.
            evaluate: Returns the metric of the model as it is.
            begin: Epochs after which the price no longer rises by itself, and is controlled.
            epochs: Epochs of the training.
        """
        self.primary, self.limit = primary, limit
        self._evaluate, self._price = evaluate, _Price(begin, epochs)

    @property
    def variables(self) -> list[Any]:
        """The state that changes from epoch to epoch."""
        return [self._price.epoch]

    def is_missed(self, value: float) -> bool:
        """Return whether a value is worse than the limit."""
        return self.primary.to_quality(value) < self.primary.to_quality(self.limit)

    def adjust(self, weights: GridWeights) -> None:
        """Change the price after an epoch; see `RateControl`."""
        count = self._price.count_epoch()
        if count >= 0:
            quality, floor = (self.primary.to_quality(value) for value in (self._evaluate(), self.limit))
            expected = quality + _LATE_GAIN * (1 - floor) * self._price.compute_rest(count)
            self._price.change(weights, min(max((expected - floor) / _QUALITY_UNIT, -1.0), 1.0))

    def finish(self, weights: GridWeights) -> float:
        """Round as many weights to zero as the limit allows; see `RateControl`."""
        low, high = 0.5, _THRESHOLDS[1]
        weights.round_with_threshold(low)
        if self.is_missed(best := self._evaluate()):
            return best
        for _ in range(_BISECTIONS):
            threshold = (low + high) / 2
            weights.round_with_threshold(threshold)
            if self.is_missed(value := self._evaluate()):
                high = threshold
            else:
                low, best = threshold, value
        weights.round_with_threshold(low)
        return best


def make_evaluator(model: Any, data: Data) -> Callable[[], float]:
    """Return a function that computes the task's primary metric of a model, as it is when called, on validation."""

    @tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
    def compute_outputs(raw: Any) -> Any:
        return model(tf.cast(raw, tf.float32) * data.scale + data.offset, training=False)

    def evaluate() -> float:
        starts = range(0, len(data.val), _EVALUATION_BATCH)
        batches = (read_chunk(data.val.x, slice(start, start + _EVALUATION_BATCH)) for start in starts)
        outputs = [compute_outputs(tf.constant(batch)) for batch in batches]
        return data.task.compute_primary(np.concatenate(outputs), data.compute_targets(data.val), data)

    return evaluate
