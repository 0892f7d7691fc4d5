"""SGD, Adam and AdamW as fused TensorFlow kernels: Keras' arithmetic in one operator a variable instead of a dozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightexp.backend.session import import_tensorflow
from lightexp.core.training import Training

tf = import_tensorflow()

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-7  # Keras' defaults


class Optimizer:
    """Applies gradients to a fixed list of variables.

    Attributes:
        slots: State variables, a list for each variable; with the step, all of the optimiser's state.
    """

    def __init__(self, settings: Training, variables: Sequence[Any]) -> None:
        """Create the state, at zero.

        Args:
            settings: Their `optimizer`, `momentum` and `weight_decay` are used.
            variables: The variables to update.
        """
        self._settings = settings
        self._variables = list(variables)
        slot_count = 2
        if settings.optimizer == "sgd":
            slot_count = 1 if settings.momentum else 0
        self.slots = [
            [tf.Variable(tf.zeros_like(variable), trainable=False) for _ in range(slot_count)]
            for variable in self._variables
        ]

    def apply(self, gradients: Sequence[Any], step: Any, rate: Any) -> None:
        """Take one step, inside a graph.

        Args:
            gradients: One for each variable; None leaves the variable unchanged.
            step: Int64 scalar tensor, counted from 1.
            rate: The step's learning rate, a float32 scalar tensor.
        """
        time = tf.cast(step, tf.float32)
        beta_powers = tf.pow(_BETA1, time), tf.pow(_BETA2, time)
        first, *others = [g if g is None else tf.convert_to_tensor(g) for g in gradients]
        # The first layer's gradient is the last to be ready and mostly the longest to compute. Starting the other
        # updates only once the second is ready lets them run while it computes, not before.
        with tf.control_dependencies([g for g in others[:1] if g is not None]):
            gradients = [first, *(g if g is None else tf.identity(g) for g in others)]
        for variable, slots, gradient in zip(self._variables, self.slots, gradients, strict=True):
            if gradient is None:
                continue
            if self._settings.optimizer == "sgd":
                _apply_sgd(variable, slots, gradient, rate, self._settings.momentum)
                continue
            if self._settings.optimizer == "adamw":
                variable.assign_sub(variable * (rate * self._settings.weight_decay))
            _apply_adam(variable, slots, gradient, rate, beta_powers)


def _apply_adam(variable: Any, slots: Sequence[Any], gradient: Any, rate: Any, beta_powers: tuple[Any, Any]) -> None:
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=slots[0].handle,
        v=slots[1].handle,
        beta1_power=beta_powers[0],
        beta2_power=beta_powers[1],
        lr=rate,
        beta1=_BETA1,
        beta2=_BETA2,
        epsilon=_EPSILON,
        grad=gradient,
    )


def _apply_sgd(variable: Any, slots: Sequence[Any], gradient: Any, rate: Any, momentum: float) -> None:
    if slots:
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle, accum=slots[0].handle, lr=rate, grad=gradient, momentum=momentum
        )
    else:
        tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient)
