"""Adjust the price of a bit while a model trains, so that its encoded file gets a size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lightexp.backend.session import import_tensorflow

if TYPE_CHECKING:
    from lightexp.backend.grid_weights import GridWeights

tf = import_tensorflow()

_MEASURED_EPOCHS = 8  # in how many epochs the file is encoded; the others extrapolate by the entropy of the levels
_GAIN = 10.0  # divided by the number of epochs: share of the error by which the price changes in an epoch
_LOOKAHEAD = 4.0  # epochs over which the size is expected to go on changing as in the last one
_MAX_CHANGE = 0.7  # of the logarithm of the price, in an epoch
_TOLERANCE = 0.01
_BISECTIONS = 8
_THRESHOLDS = (0.1, 0.95)  # multiples of a step below which a weight may become zero at the end; 0.5 rounds


class RateControl:
    """Controls the price of a bit by the size of the encoded file.

    Attributes:
        target: Bytes that the encoded file is to have.
    """

    def __init__(self, target: float, measure: Callable[[], int], begin: int, epochs: int) -> None:
        """Start before the first epoch.

        Args:
            target: See `RateControl`.
            measure: Encodes the model as it is, and returns the size in bytes.
            begin: Epochs after which the price no longer rises by itself, and is controlled.
            epochs: Epochs of the training.
        """
        self.target, self._measure, self._begin, self._epochs = target, measure, begin, epochs
        self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._calibration = tf.Variable(1.0, dtype=tf.float64, trainable=False)
        self._last_error = tf.Variable(math.nan, dtype=tf.float64, trainable=False)

    @property
    def variables(self) -> list[Any]:
        """The state that changes from epoch to epoch."""
        return [self._epoch, self._calibration, self._last_error]

    def adjust(self, weights: GridWeights) -> None:
        """Change the price after an epoch.

        Args:
            weights: The weights; their `rate` is changed.
        """
        epoch = int(self._epoch.assign_add(1))
        controlled = max(self._epochs - self._begin, 1)
        if epoch < self._begin:
            return
        entropy = weights.estimate_bytes()
        if (epoch - self._begin) % max(controlled // _MEASURED_EPOCHS, 1) == 0:
            self._calibration.assign(self._measure() - entropy)
        error = math.log(max(entropy + float(self._calibration), 1.0) / self.target)
        trend = 0.0 if math.isnan(last := float(self._last_error)) else error - last
        self._last_error.assign(error)
        change = _GAIN / controlled * (error + _LOOKAHEAD * trend)
        weights.rate.assign(weights.rate * math.exp(min(max(change, -_MAX_CHANGE), _MAX_CHANGE)))

    def finish(self, weights: GridWeights) -> int:
        """Reach the size after the last epoch, by moving the limit between zero and one step.

        Args:
            weights: The weights, rounded with the new limit.

        Returns:
            The size of the encoded file in bytes.
        """
        low, high = _THRESHOLDS
        threshold = 0.5
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
