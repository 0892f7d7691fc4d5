"""Optimisers as fused TensorFlow kernels: the arithmetic of Keras' own, one operator a variable instead of a dozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from lightexp.core.training import Training

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-7  # Keras' defaults


class Optimizer:
    """Applies gradients to a fixed list of variables.

    Attributes:
        slots: Its own variables, which are all of its state beside the step.
    """

    def __init__(self, settings: Training, variables: Sequence[Any]) -> None:
        """Makes the state for `variables`."""
        self._settings = settings
        self._variables = list(variables)
        per_variable = {"sgd": 1 if settings.momentum else 0}.get(settings.optimizer, 2)
        self.slots = [
            [tf.Variable(tf.zeros_like(v), trainable=False) for _ in range(per_variable)] for v in self._variables
        ]

    def apply(self, gradients: Sequence[Any], step: Any, rate: Any) -> None:
        """Takes one step, inside a graph.

        Args:
            gradients: One for each variable; None leaves the variable as it is.
            step: Tensor of type int64, counted from 1.
            rate: The step's learning rate, a float32 tensor.
        """
        settings = self._settings
        time = tf.cast(step, tf.float32)
        beta1_power, beta2_power = tf.pow(_BETA1, time), tf.pow(_BETA2, time)
        first, *others = [g if g is None else tf.convert_to_tensor(g) for g in gradients]
        # Updates run beside the first layer's product, the last and mostly the longest, not beside what it waits for.
        with tf.control_dependencies([g for g in others[:1] if g is not None]):
            gradients = [first, *(g if g is None else tf.identity(g) for g in others)]
        for variable, slots, gradient in zip(self._variables, self.slots, gradients, strict=True):
            if gradient is None:
                continue
            if settings.optimizer == "sgd":
                _sgd(variable, slots, gradient, rate, settings.momentum)
                continue
            if settings.optimizer == "adamw":
                variable.assign_sub(variable * (rate * settings.weight_decay))
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=slots[0].handle,
                v=slots[1].handle,
                beta1_power=beta1_power,
                beta2_power=beta2_power,
                lr=rate,
                beta1=_BETA1,
                beta2=_BETA2,
                epsilon=_EPSILON,
                grad=gradient,
            )


def _sgd(variable: Any, slots: Sequence[Any], gradient: Any, rate: Any, momentum: float) -> None:
    if slots:
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle, accum=slots[0].handle, lr=rate, grad=gradient, momentum=momentum
        )
    else:
        tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient)
